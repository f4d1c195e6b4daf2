import { chmod, lstat, readFile, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import {
  Server,
  ServerCredentials,
  type ServerInterceptor,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { grpcTarget, requireLocal, type Address } from './address.ts';
import { HoldfastError } from './errors.ts';
import { isRenewalDue, type Certificates } from './identity/certificates.ts';
import { listenTls } from './identity/listener.ts';
import { blameCaller, readingMalformed, refuseMalformed } from './limits/malformed.ts';
import type { Logger } from './logger.ts';

const MINUTE = 60_000;

/** Pings find a peer that is gone without a word; the default is never. */
const KEEPALIVE_TIME_MS = 30_000;
const KEEPALIVE_TIMEOUT_MS = 10_000;

/** A request. The largest that makes sense, a list of leftovers, is far below. */
export const MAX_REQUEST_BYTES = 4 * 1024 * 1024;
/** Streams on one connection. A client that wants more waits until others have ended, or opens another connection. */
const MAX_STREAMS_PER_CONNECTION = 10_000;

/** The name in health of our certificate: NOT_SERVING when it is time to renew it. */
export const CERTIFICATE_HEALTH = 'holdfast.certificate';
const EXPIRY_LOOK_EVERY_MS = MINUTE;

export interface Service {
  /** The full name, such as holdfast.v1.BackupService. */
  readonly name: string;
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
}

export interface ServeOptions {
  /** With these, TLS is spoken on TCP ports, and other machines may reach them. Unix sockets stay plain. */
  readonly certificates?: Certificates | undefined;
  /** Whether the contract can be asked for; default true. */
  readonly reflection?: boolean;
  /** What every call passes first. */
  readonly gate?: ServerInterceptor | undefined;
}

export interface RunningServer {
  /** Where it listens, with the real port when 0 was asked for. */
  readonly address: Address;
  /** Says NOT_SERVING in health, and goes on as before: who is asked whether to send more here sends none. */
  retire(): void;
  /** Stops taking calls, lets those in flight end within `graceMs`, then ends them. May be called twice. */
  close(graceMs?: number): Promise<void>;
}

/**
 * Serves gRPC with health and reflection (v1 and v1alpha) beside the given services.
 *
 * @throws HoldfastError INVALID_REQUEST when other machines could reach the address without TLS, IN_USE when it is taken.
 */
export async function serve(
  address: Address,
  services: readonly Service[],
  logger: Logger,
  options: ServeOptions = {},
): Promise<RunningServer> {
  const { certificates, reflection = true, gate } = options;
  const server = new Server({
    'grpc.keepalive_time_ms': KEEPALIVE_TIME_MS,
    'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
    'grpc.max_connection_age_grace_ms': MINUTE,
    'grpc.max_receive_message_length': MAX_REQUEST_BYTES,
    'grpc.max_concurrent_streams': MAX_STREAMS_PER_CONNECTION,
    interceptors: [blameCaller, ...(gate === undefined ? [] : [gate]), refuseMalformed],
  });
  const health = new HealthImplementation({ '': 'SERVING' });
  health.addToServer(server);
  for (const service of services) {
    server.addService(readingMalformed(service.definition), service.implementation);
    health.setStatus(service.name, 'SERVING');
  }
  if (reflection) await addReflection(server, services);
  const forgetExpiry =
    certificates &&
    watchExpiry(certificates, logger, (status) => {
      health.setStatus(CERTIFICATE_HEALTH, status);
    });
  const bound = await bind(server, address, certificates, logger).catch((error: unknown) => {
    forgetExpiry?.();
    throw error;
  });

  const retire = (): void => {
    for (const name of ['', ...services.map((service) => service.name)])
      health.setStatus(name, 'NOT_SERVING');
  };
  let closing: Promise<void> | undefined;
  const close = async (graceMs: number): Promise<void> => {
    retire();
    forgetExpiry?.();
    bound.stopListening();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        server.forceShutdown();
        resolve();
      }, graceMs);
      server.tryShutdown(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  };
  return { address: bound.address, retire, close: (graceMs = 2_000) => (closing ??= close(graceMs)) };
}

interface Bound {
  readonly address: Address;
  /** Takes no more connections. */
  readonly stopListening: () => void;
}

async function bind(
  server: Server,
  address: Address,
  certificates: Certificates | undefined,
  logger: Logger,
): Promise<Bound> {
  if (address.kind === 'tcp' && certificates !== undefined) {
    const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
    const listener = await listenTls(
      address,
      certificates,
      (socket) => {
        injector.injectConnection(socket);
      },
      logger,
    );
    let { authority } = certificates.current();
    const forget = certificates.onChange((set) => {
      // Who was let in by an authority that is not trusted any more has to come again.
      if (!set.authority.equals(authority)) injector.drain(MINUTE);
      authority = set.authority;
    });
    const bound = { ...address, port: listener.port };
    logger.info('listening', { address: grpcTarget(bound), plaintext: false });
    const stopListening = (): void => {
      forget();
      listener.close();
    };
    return { address: bound, stopListening };
  }
  requireLocal(address);
  const bound = await bindPlain(server, address);
  logger.info('listening', { address: grpcTarget(bound), plaintext: true });
  if (bound.kind === 'tcp')
    logger.warn('every user of this host can call without a certificate', { address: grpcTarget(bound) });
  return { address: bound, stopListening: () => undefined };
}

async function bindPlain(server: Server, address: Address): Promise<Address> {
  if (address.kind === 'unix') await removeStaleSocket(address.path);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(grpcTarget(address), ServerCredentials.createInsecure(), (error, boundPort) => {
      if (error === null) resolve(boundPort);
      else reject(new HoldfastError('IN_USE', `Cannot listen on ${grpcTarget(address)}: ${error.message}`));
    });
  });
  if (address.kind === 'tcp') return { ...address, port };
  await chmod(address.path, 0o600);
  return address;
}

/** Tells ahead of time that our certificate is to be renewed, in health and in the log. Returns what ends that. */
function watchExpiry(
  certificates: Certificates,
  logger: Logger,
  setStatus: (status: 'SERVING' | 'NOT_SERVING') => void,
): () => void {
  let wasDue = false;
  const look = (): void => {
    const set = certificates.current();
    const due = isRenewalDue(set, new Date());
    setStatus(due ? 'NOT_SERVING' : 'SERVING');
    if (due && !wasDue)
      logger.warn('the certificate is to be renewed', { notAfter: set.notAfter.toISOString() });
    wasDue = due;
  };
  look();
  const timer = setInterval(look, EXPIRY_LOOK_EVERY_MS).unref();
  const forget = certificates.onChange(look);
  return () => {
    clearInterval(timer);
    forget();
  };
}

/** A socket file outlives a killed server; one that nobody answers on is removed. */
async function removeStaleSocket(path: string): Promise<void> {
  const answered = await new Promise<boolean>((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
  if (answered) throw new HoldfastError('IN_USE', `Another process listens on ${path}.`);
  const found = await lstat(path).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return undefined;
  });
  if (found === undefined) return;
  // A path that was mistyped must not cost anyone a file.
  if (!found.isSocket()) throw new HoldfastError('IN_USE', `${path} is there already and is no socket.`);
  await unlink(path);
}

/** Feeds the files of the compiled contract verbatim: proto-loader would drop imports and break grpcurl. */
async function addReflection(server: Server, services: readonly Service[]): Promise<void> {
  const image = await readFile(new URL(import.meta.resolve('@holdfast/proto/image.binpb')));
  const files: Buffer[] = [];
  const reader = new BinaryReader(image);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    // FileDescriptorSet.file
    if (field === 1) files.push(Buffer.from(reader.bytes()));
    else reader.skip(wireType);
  }
  // Of a package definition, the library reads only these descriptors.
  const definition = { contract: { fileDescriptorProtos: files } } as unknown as ConstructorParameters<
    typeof ReflectionService
  >[0];
  new ReflectionService(definition, { services: services.map((service) => service.name) }).addToServer(
    server,
  );
}
