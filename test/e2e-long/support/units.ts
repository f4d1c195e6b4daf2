import path from 'node:path';
import type { AgentStart } from '../../harness/microHost.ts';
import { nodeEnvironment, type MicroVm } from '../../lab/microVm.ts';

const ROOT = path.resolve(import.meta.dirname, '../../..');
const START_MILLISECONDS = 300_000;

/** An installation as docs/install.md has it, but for where the checkout lies; the agent is started by systemd. */
export const BY_SYSTEMD: AgentStart = {
  init: 'systemd',
  start: async (vm, zone, options) => {
    const environment = (await nodeEnvironment()).map((each) => `Environment=${quoted(each)}`).join('\n');
    await vm.sh(`mkdir -p /opt/holdfast /etc/holdfast /etc/systemd/system
      ln -s ${ROOT} /opt/holdfast/current
      cp ${ROOT}/deploy/systemd/* /etc/systemd/system
      cp ${ROOT}/deploy/agent.conf /etc/holdfast
      sed -i 's|^ZONE=.*|ZONE=${zone}|; s|^OPTIONS=.*|OPTIONS=${options.join(' ')}|' /etc/holdfast/agent.conf`);
    for (const unit of ['agent', 'controller']) {
      await vm.sh(`mkdir -p /etc/systemd/system/holdfast-${unit}.service.d`);
      // An emulated processor takes its time to start Node.
      const dropIn = `[Service]\nTimeoutStartSec=300\nWatchdogSec=90\n${environment}\n`;
      await vm.writeFile(`/etc/systemd/system/holdfast-${unit}.service.d/emulated.conf`, dropIn);
    }
    await systemctl(vm, 'daemon-reload');
    // Returns when the agent has said that it is ready.
    await systemctl(vm, 'start holdfast-agent');
  },
  log: 'journalctl --no-pager --output=cat --unit=holdfast-agent',
};

export function systemctl(vm: MicroVm, words: string): Promise<string> {
  return vm.sh(`systemctl ${words}`, START_MILLISECONDS);
}

/** A property of a unit, as `systemctl show` prints it. */
export async function property(vm: MicroVm, unit: string, name: string): Promise<string> {
  return (await systemctl(vm, `show --value --property=${name} ${unit}`)).trim();
}

/**
 * Makes another version of Holdfast, of the same sources at another path, and changes the unit of the agent so that it is
 * the one which is started next.
 */
export async function installNextVersion(vm: MicroVm, directory: string): Promise<void> {
  await vm.sh(
    `mkdir -p ${directory}
    mount --bind ${ROOT} ${directory}
    bundles=$(sed -n 's/.*HOLDFAST_BUNDLES=\\([^"]*\\).*/\\1/p' /etc/systemd/system/holdfast-agent.service.d/emulated.conf)
    cp -r "$bundles" /var/lib/next
    rm -r /var/lib/next/compiled
    grep -rl '${ROOT}' /var/lib/next | xargs sed -i 's|${ROOT}|${directory}|g'
    sed -i "s|$bundles|/var/lib/next|g; s|${ROOT}|${directory}|g" \\
      /etc/systemd/system/holdfast-agent.service.d/emulated.conf
    ln -sfn ${directory} /opt/holdfast/current`,
    START_MILLISECONDS,
  );
  await systemctl(vm, 'daemon-reload');
}

/** Makes the version that was there before `installNextVersion` the one which is started next. */
export async function installFirstVersion(vm: MicroVm): Promise<void> {
  await vm.sh(`ln -sfn ${ROOT} /opt/holdfast/current; cd /etc/systemd/system
    cp holdfast-controller.service.d/emulated.conf holdfast-agent.service.d/emulated.conf`);
  await systemctl(vm, 'daemon-reload');
}

/** For a unit file: in quotes, with what is special in them escaped (systemd.syntax(7)). */
function quoted(text: string): string {
  return `"${text.replaceAll(/["\\]/g, String.raw`\$&`).replaceAll('%', '%%')}"`;
}
