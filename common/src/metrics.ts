import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { status } from '@grpc/grpc-js';
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';
import { requireLocal, type Address } from './address.ts';
import { HoldfastError } from './errors.ts';
import type { Certificates } from './identity/certificates.ts';
import type { Logger } from './logger.ts';
import type { Reason } from './reasons.ts';

/** The figures of a process. The library behind them is named in this file only. */
export interface Metrics {
  /** A call that ended, by its path and gRPC code. */
  countCall(path: string, code: number): void;
  /** A call that was turned away before its handler saw it. */
  countRefused(reason: Reason): void;
  /** Begins to count by one label, and gives what counts: `count('intact')`. */
  counter(name: string, help: string, label: string): (value: string) => void;
  /** Where the number of open streams is asked for. */
  countStreams(count: () => number): void;
  /** All of them, in the text format of Prometheus. */
  text(): Promise<{ readonly type: string; readonly body: string }>;
}

export interface MetricsServer {
  readonly address: Address;
  close(): Promise<void>;
}

export function createMetrics(certificates?: Certificates): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const calls = new Counter({
    ...{ name: 'holdfast_rpc_handled_total', help: 'Calls that ended, by method and gRPC code.', registers },
    labelNames: ['method', 'code'],
  });
  const refused = new Counter({
    ...{ name: 'holdfast_rpc_refused_total', help: 'Calls that were turned away, by reason.', registers },
    labelNames: ['reason'],
  });
  if (certificates !== undefined) {
    new Gauge({
      name: 'holdfast_certificate_expiry_timestamp_seconds',
      help: 'When the certificate, and the first of its authorities, expire, in seconds since 1970.',
      labelNames: ['certificate'],
      registers,
      collect() {
        const { notAfter, authorityNotAfter } = certificates.current();
        this.set({ certificate: 'own' }, notAfter.getTime() / 1_000);
        this.set({ certificate: 'authority' }, authorityNotAfter.getTime() / 1_000);
      },
    });
  }
  return {
    countCall: (path, code) => {
      calls.inc({ method: path.slice(1), code: status[code] ?? String(code) });
    },
    countRefused: (reason) => {
      refused.inc({ reason });
    },
    counter: (name, help, label) => {
      const counter = new Counter({ name, help, labelNames: [label], registers });
      return (value) => {
        counter.inc({ [label]: value });
      };
    },
    countStreams: (count) => {
      new Gauge({
        name: 'holdfast_rpc_open_streams',
        help: 'Streams that are open.',
        registers,
        collect() {
          this.set(count());
        },
      });
    },
    text: async () => ({ type: registry.contentType, body: await registry.metrics() }),
  };
}

/**
 * Serves the figures at /metrics by HTTP, on loopback only: they are not encrypted and nobody is asked who he is.
 *
 * @throws HoldfastError INVALID_REQUEST for any other address, IN_USE
 */
export async function serveMetrics(
  address: Address,
  metrics: Metrics,
  logger: Logger,
): Promise<MetricsServer> {
  if (address.kind !== 'tcp')
    throw new HoldfastError(
      'INVALID_REQUEST',
      'Metrics are served on a port of loopback, such as 127.0.0.1:7680.',
    );
  requireLocal(address);
  const server = createServer((request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end();
      return;
    }
    metrics.text().then(
      ({ type, body }) => {
        response.writeHead(200, { 'content-type': type }).end(body);
      },
      (error: unknown) => {
        logger.error('the metrics could not be collected', { error });
        response.writeHead(500).end();
      },
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new HoldfastError('IN_USE', `Cannot listen on ${address.host}:${address.port}: ${error.message}`),
      );
    });
    server.listen(address.port, address.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  logger.info('metrics', { address: `${address.host}:${port}` });
  return {
    address: { ...address, port },
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}
