import type { Address } from '@holdfast/common/address.ts';
import type { Logger, LoggerOptions } from '@holdfast/common/logger.ts';
import type { Secret } from '@holdfast/common/secret.ts';

/** A service that was started. */
export interface Closable {
  close(): Promise<void>;
}

/** What an agent is started with. */
export interface AgentOptions {
  readonly listen: readonly Address[];
  readonly zone: string;
  readonly hostName: string;
  readonly libvirtUri: string;
  readonly stateDirectory: string;
  readonly runtimeDirectory: string;
  readonly scratchDirectory: string;
  readonly logger: Logger;
  readonly logFormat: LoggerOptions['format'];
  readonly logLevel: LoggerOptions['level'];
}

/** What a controller is started with. */
export interface ControllerOptions {
  readonly listen: readonly Address[];
  readonly state: { readonly kind: 'sqlite'; readonly directory: string };
  readonly masterKey: Secret;
  readonly logger: Logger;
}

/** What commands run that need no controller; named here as they need them, made by their own packages. */
export interface LocalParts {
  readonly createLogger: (options: LoggerOptions) => Logger;
  readonly startAgent: (
    options: AgentOptions,
  ) => Promise<Closable & { readonly addresses: readonly Address[] }>;
  readonly startController: (
    options: ControllerOptions,
  ) => Promise<Closable & { readonly addresses: readonly Address[] }>;
  /** Writes a new key, under which the controller seals what is secret; TARGET_EXISTS when there is one. */
  readonly createMasterKey: (path: string) => Promise<void>;
  readonly readMasterKey: (path: string) => Promise<Secret>;
  /** Copies the database of a controller's state directory to a new file. */
  readonly copySqlite: (stateDirectory: string, target: string) => void;
}
