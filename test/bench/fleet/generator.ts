import { fork } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { usage } from './controller.ts';

/** What the process of the agents is told. */
export type Order = { readonly kind: 'finish' } | { readonly kind: 'count' };

/** What it answers. */
export type Report =
  | { readonly kind: 'addresses'; readonly addresses: readonly string[] }
  | {
      readonly kind: 'counted';
      /** The marks of the state events of each job, by its id. */
      readonly told: Readonly<Record<string, readonly string[]>>;
      /** Events of all kinds so far. */
      readonly events: number;
      readonly lateMs: number;
    };

export interface GeneratorOptions {
  readonly agents: number;
  /** Each agent knows domain-0, domain-1... */
  readonly domains: number;
}

/** Agents without a data plane, all in one process of their own. */
export interface Generator extends AsyncDisposable {
  readonly addresses: readonly string[];
  readonly cpuSeconds: () => Promise<number>;
  /** Lets all jobs end. */
  finish(): void;
  /** What was told so far, and by how much progress was late at most since it was asked last. */
  count(): Promise<Extract<Report, { kind: 'counted' }>>;
}

export async function startGenerator(directory: string, options: GeneratorOptions): Promise<Generator> {
  const main = path.join(import.meta.dirname, 'agents.ts');
  const child = fork(main, [directory, String(options.agents), String(options.domains)]);
  const next = async (): Promise<Report> => {
    const [report] = (await once(child, 'message')) as [Report];
    return report;
  };
  const report = await next();
  const order = (what: Order): void => {
    child.send(what);
  };
  return {
    addresses: report.kind === 'addresses' ? report.addresses : [],
    cpuSeconds: async () => (await usage(child.pid ?? 0)).cpuSeconds,
    finish: () => order({ kind: 'finish' }),
    count: async () => {
      const answer = next();
      order({ kind: 'count' });
      const counted = await answer;
      if (counted.kind !== 'counted') throw new Error('The agents did not count.');
      return counted;
    },
    [Symbol.asyncDispose]: async () => {
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    },
  };
}
