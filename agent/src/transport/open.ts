import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobContext } from '../stages/context.ts';
import type { Prepared } from '../stages/prepare.ts';
import { directTransport } from './direct.ts';
import { pullTransport } from './pull.ts';
import { pushTransport } from './push.ts';
import type { Transport } from './transport.ts';

/** Makes the transport that was chosen ready, up to the point where the guest is touched. */
export async function openTransport(
  context: JobContext,
  start: TakeBackupStart,
  prepared: Prepared,
  stages: readonly Stage[],
): Promise<Transport> {
  switch (prepared.transport.name) {
    case 'pull':
      return pullTransport(context, prepared, stages);
    case 'push':
      return pushTransport(context, prepared, stages, start.options?.bandwidthEnforce ?? '');
    case 'direct':
      return directTransport(context, prepared, stages);
  }
}
