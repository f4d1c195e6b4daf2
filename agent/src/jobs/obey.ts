import type { Control as ControlMessage } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Control } from './control.ts';
import type { EventLog } from './eventLog.ts';

/** Does what a running job is told, and tells when it took effect. */
export async function obey(message: ControlMessage, control: Control, events: EventLog): Promise<void> {
  const { command } = message;
  switch (command?.$case) {
    case 'setBandwidth': {
      const { limitMibps } = command.value;
      await control.setLimit(Number(limitMibps));
      await events.append({ $case: 'bandwidthApplied', value: { limitMibps } });
      return;
    }
    case 'setShare': {
      const { bytesPerSecond } = command.value;
      await control.setShare(Number(bytesPerSecond));
      await events.append({ $case: 'shareApplied', value: { bytesPerSecond } });
      return;
    }
    case 'pause':
      await control.setPaused(true);
      await events.append({ $case: 'paused', value: {} });
      return;
    case 'resume':
      await control.setPaused(false);
      await events.append({ $case: 'resumed', value: {} });
      return;
    case 'cancel':
      control.cancel();
      return;
    case 'attach':
    case 'ack':
    case undefined:
      // For the agent, not for the runner.
      return;
  }
}
