import winston from 'winston';
import { HoldfastError } from './errors.ts';
import { redact } from './redact.ts';

/** What code logs to. The library behind it is named in this file only. */
export interface Logger {
  debug(message: string, meta?: Readonly<Record<string, unknown>>): void;
  info(message: string, meta?: Readonly<Record<string, unknown>>): void;
  warn(message: string, meta?: Readonly<Record<string, unknown>>): void;
  error(message: string, meta?: Readonly<Record<string, unknown>>): void;
  /** A logger that adds `meta` to every line. */
  child(meta: Readonly<Record<string, unknown>>): Logger;
}

export interface LoggerOptions {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  /** One JSON object a line, or lines for people. */
  readonly format: 'json' | 'pretty';
  /** A file to append to; stderr when left out. */
  readonly file?: string;
}

/** Makes the logger of a process. Secrets are redacted here, at the edge, whatever the caller passed. */
export function createLogger(options: LoggerOptions, meta: Readonly<Record<string, unknown>> = {}): Logger {
  const transport =
    options.file === undefined
      ? new winston.transports.Stream({ stream: process.stderr })
      : new winston.transports.File({ filename: options.file });
  const line = winston.format.printf((info) =>
    options.format === 'json' ? jsonLine(info) : prettyLine(info),
  );
  const winstonLogger = winston.createLogger({ level: options.level, format: line, transports: [transport] });
  return wrap(winstonLogger, meta);
}

/** A logger that says nothing, for tests. */
export const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};

function wrap(target: winston.Logger, base: Readonly<Record<string, unknown>>): Logger {
  // Meta goes under a key of its own: winston would glue `meta.message` to the message.
  const write = (level: string) => (message: string, meta?: Readonly<Record<string, unknown>>) => {
    target.log({ level, message, meta: { ...base, ...meta } });
  };
  return {
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    child: (meta) => wrap(target, { ...base, ...meta }),
  };
}

/** The keys of a line that are not the caller's. */
const OWN: readonly string[] = ['time', 'level', 'message'];

function jsonLine(info: winston.Logform.TransformableInfo): string {
  const meta = plain(info['meta']) as Record<string, unknown>;
  return JSON.stringify({
    time: new Date().toISOString(),
    level: info.level,
    message: redact(String(info.message)),
    // What a caller calls `message` too must not take the place of ours.
    ...Object.fromEntries(
      Object.entries(meta).map(([key, value]) => [OWN.includes(key) ? `meta.${key}` : key, value]),
    ),
  });
}

function prettyLine(info: winston.Logform.TransformableInfo): string {
  const meta = Object.entries(plain(info['meta']) as Record<string, unknown>)
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ');
  const head = `${new Date().toISOString()} ${info.level.padEnd(5)} ${redact(String(info.message))}`;
  return meta === '' ? head : `${head}  ${meta}`;
}

/** The value as JSON can show it, with secrets redacted and errors in full; winston alone prints errors as {}. */
function plain(value: unknown): unknown {
  if (typeof value === 'string') return redact(value);
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Error) {
    return {
      name: value.name,
      message: redact(value.message),
      ...(value instanceof HoldfastError ? { reason: value.reason } : { stack: redact(value.stack ?? '') }),
      ...(value.cause === undefined ? {} : { cause: plain(value.cause) }),
    };
  }
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return `[${value.byteLength} bytes]`;
  if (typeof value === 'object' && value !== null) {
    if ('toJSON' in value && typeof value.toJSON === 'function') {
      return (value.toJSON as () => unknown)();
    }
    return Object.fromEntries(
      Object.entries(value).map(([key, entry]) => [
        key,
        /passphrase|secret/i.test(key) ? '[redacted]' : plain(entry),
      ]),
    );
  }
  return value;
}
