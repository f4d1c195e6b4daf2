import type { Address } from './address.ts';
import { createGate, DEFAULT_LIMITS, type Access, type Limits } from './gate.ts';
import { openCertificates, type Certificates } from './identity/certificates.ts';
import type { Logger } from './logger.ts';
import { createMetrics, serveMetrics, type Metrics } from './metrics.ts';
import { serve, type RunningServer, type Service } from './server.ts';

/** What stands between callers and the handlers of a service. */
export interface FrontOptions {
  /** The directory of `ca.crt`, `tls.crt` and `tls.key`; without it, only this host can call. */
  readonly tlsDirectory?: string | undefined;
  /** Where the figures are served, a port of loopback; nowhere when left out. */
  readonly metricsListen?: Address | undefined;
  /** Whether the contract can be asked for. */
  readonly reflection: boolean;
  readonly limits: Limits;
}

export const DEFAULT_FRONT: FrontOptions = { reflection: true, limits: DEFAULT_LIMITS };

/** The front of one process, at all of its addresses. */
export interface Front {
  readonly certificates: Certificates | undefined;
  readonly metrics: Metrics;
  /**
   * Listens at every address or at none. Callers pass one gate, wherever they come from.
   *
   * @throws HoldfastError as `serve`
   */
  serve(
    addresses: readonly Address[],
    services: readonly Service[],
    access: Access,
  ): Promise<readonly RunningServer[]>;
  close(): Promise<void>;
}

/** @throws HoldfastError CERTIFICATE_UNUSABLE, and as `serveMetrics` */
export async function openFront(options: FrontOptions, logger: Logger): Promise<Front> {
  const { tlsDirectory, metricsListen, reflection, limits } = options;
  const certificates = tlsDirectory === undefined ? undefined : await openCertificates(tlsDirectory, logger);
  const metrics = createMetrics(certificates);
  const metricsServer =
    metricsListen &&
    (await serveMetrics(metricsListen, metrics, logger).catch((error: unknown) => {
      certificates?.close();
      throw error;
    }));
  return {
    certificates,
    metrics,
    serve: async (addresses, services, access) => {
      const gate = createGate({ access, limits, metrics });
      const servers: RunningServer[] = [];
      try {
        for (const address of addresses)
          servers.push(await serve(address, services, logger, { certificates, reflection, gate }));
        return servers;
      } catch (error) {
        await Promise.all(servers.map((server) => server.close(0)));
        throw error;
      }
    },
    close: async () => {
      certificates?.close();
      await metricsServer?.close();
    },
  };
}
