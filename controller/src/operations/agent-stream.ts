import type { ClientDuplexStream, Metadata } from '@grpc/grpc-js';
import type { AgentServiceClient, Control, JobHeader } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { StreamedJob } from './job.ts';

/** A bidirectional stream to an agent about one job, of the same shape for every kind of job. */
export interface AgentStream {
  /** Tells the agent to start the job, or to attach to it when it knows it. */
  start(header: JobHeader): void;
  control(command: NonNullable<Control['command']>): void;
  /** Calls back once, when the agent has taken the start or the attachment; before its first event. */
  onTaken(callback: () => void): void;
  /**
   * Calls back with each message until the stream ends, also with those that came before it broke. One for which it returns
   * a promise is waited for before the next comes. To be called once.
   *
   * @throws what gRPC gives when the stream breaks, what the callback throws
   */
  read(onMessage: (message: FromAgent) => Promise<void> | undefined): Promise<void>;
  /** Says that nothing more will be sent. The job goes on. */
  end(): void;
  /** Drops the stream. The job goes on. */
  readonly drop: () => void;
}

/** Opens the stream for a job. Nothing is sent yet; there is no deadline. */
export function openAgentStream(
  client: AgentServiceClient,
  job: StreamedJob,
  metadata: Metadata,
): AgentStream {
  switch (job.kind) {
    case 'take':
      return wrap(client.takeBackup(metadata), (header) => ({ ...job.start, header }));
    case 'verify':
      return wrap(client.verifyBackup(metadata), (header) => ({ ...job.start, header }));
    case 'restore':
      return wrap(client.restoreBackup(metadata), (header) => ({ ...job.start, header }));
  }
}

interface ToAgent<Start> {
  readonly message:
    | { readonly $case: 'start'; readonly value: Start }
    | { readonly $case: 'control'; readonly value: Control }
    | undefined;
}

/** A message of the stream. */
export interface FromAgent {
  readonly event: OperationEvent | undefined;
}

function wrap<Start>(
  call: ClientDuplexStream<ToAgent<Start>, FromAgent>,
  startWith: (header: JobHeader) => Start,
): AgentStream {
  // Without a listener, an error that nobody reads any more would end the process.
  let broken: Error | undefined;
  call.on('error', (error: Error) => {
    broken ??= error;
  });
  return {
    start: (header) => {
      call.write({ message: { $case: 'start', value: startWith(header) } });
    },
    control: (command) => {
      if (call.writable) call.write({ message: { $case: 'control', value: { command } } });
    },
    onTaken: (callback) => {
      call.once('metadata', callback);
    },
    // Not an iterator: each of its steps leaves promises behind, which of ten thousand streams keep the collector busy.
    read: (onMessage) =>
      new Promise((resolve, reject) => {
        const settle = (): void => {
          if (broken === undefined) resolve();
          else reject(broken);
        };
        if (call.destroyed) settle();
        call.on('end', settle);
        call.on('close', settle);
        call.on('data', (message: FromAgent) => {
          const work = onMessage(message);
          if (work === undefined) return;
          call.pause();
          work.then(() => {
            call.resume();
          }, reject);
        });
      }),
    end: () => {
      call.end();
    },
    drop: () => {
      call.cancel();
    },
  };
}
