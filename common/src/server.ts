import { chmod, lstat, readFile, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import {
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { grpcTarget, requireLocal, type Address } from './address.ts';
import { HoldfastError } from './errors.ts';
import type { Logger } from './logger.ts';

const MINUTE = 60_000;

/** Pings find a peer that is gone without a word; the default is never. */
const KEEPALIVE_TIME_MS = 30_000;
const KEEPALIVE_TIMEOUT_MS = 10_000;

export interface Service {
  /** The full name, such as holdfast.v1.BackupService. */
  readonly name: string;
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
}

export interface RunningServer {
  /** Where it listens, with the real port when 0 was asked for. */
  readonly address: Address;
  /** Stops taking calls, lets those in flight end within `graceMs`, then ends them. May be called twice. */
  close(graceMs?: number): Promise<void>;
}

/**
 * Serves gRPC with health and reflection (v1 and v1alpha) beside the given services.
 *
 * @throws HoldfastError INVALID_REQUEST when other machines could reach the address, IN_USE when it is taken.
 */
export async function serve(
  address: Address,
  services: readonly Service[],
  logger: Logger,
): Promise<RunningServer> {
  requireLocal(address);
  const server = new Server({
    'grpc.keepalive_time_ms': KEEPALIVE_TIME_MS,
    'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
    'grpc.max_connection_age_grace_ms': MINUTE,
  });
  const health = new HealthImplementation({ '': 'SERVING' });
  health.addToServer(server);
  for (const service of services) {
    server.addService(service.definition, service.implementation);
    health.setStatus(service.name, 'SERVING');
  }
  await addReflection(server, services);
  const bound = await bind(server, address);
  logger.info('listening', { address: grpcTarget(bound), plaintext: true });

  let closing: Promise<void> | undefined;
  const close = async (graceMs: number): Promise<void> => {
    for (const name of ['', ...services.map((service) => service.name)])
      health.setStatus(name, 'NOT_SERVING');
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
  return { address: bound, close: (graceMs = 2_000) => (closing ??= close(graceMs)) };
}

async function bind(server: Server, address: Address): Promise<Address> {
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
