import assert from 'node:assert/strict';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { requireNoGaps, withoutProgress, isStart } from '../e2e/support/events.ts';
import { domainXml, IMAGES, MINUTE } from '../e2e/support/nas.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { startHoldfast, type Holdfast } from '../harness/holdfast.ts';
import { startMicroHost, type MicroHost } from '../harness/microHost.ts';
import { until } from '../lab/deadline.ts';
import { startLab } from '../lab/lab.ts';
import { nodeEnvironment } from '../lab/microVm.ts';
import { BY_SYSTEMD, installNextVersion, property, systemctl } from './support/units.ts';

const AGENT = 'holdfast-agent.service';
const NAS = '/var/lib/nas';
const DOMAIN = 'one';
/** At one MiB/s it lasts until the test lifts the limit. */
const SIZE_MIB = 400;

describe('an agent that systemd runs', () => {
  const stack = new AsyncDisposableStack();
  let holdfast: Holdfast;
  let host: MicroHost;
  before(async function () {
    this.timeout(10 * MINUTE);
    const lab = stack.use(await startLab());
    holdfast = stack.use(await startHoldfast(lab, { clientDeadlineMs: 300_000 }));
    const prepare = async (vm: MicroHost['vm']) => {
      await vm.writeFile(`/run/${DOMAIN}.xml`, domainXml(DOMAIN));
      await vm.sh(
        `mkdir -p ${IMAGES} ${NAS}
        yes | head -c ${SIZE_MIB}M >/var/lib/raw
        qemu-img convert -f raw -O qcow2 /var/lib/raw ${IMAGES}/${DOMAIN}.qcow2
        rm /var/lib/raw
        virsh -q define /run/${DOMAIN}.xml`,
        5 * MINUTE,
      );
    };
    host = await startMicroHost(lab, holdfast.client, prepare, BY_SYSTEMD);
    const { repositories } = holdfast.client;
    const type = RepositoryType.REPOSITORY_TYPE_LOCAL;
    const request = AddRepositoryRequest.fromPartial({ zone: host.zone, name: 'nas', type, path: NAS });
    await holdfast.client.call(repositories.addRepository.bind(repositories), request);
  });
  after(() => stack.disposeAsync());
  beforeEach(function () {
    this.currentTest?.timeout(10 * MINUTE);
  });
  afterEach(async function () {
    if (this.currentTest?.state === 'failed') console.error((await host.logs()).slice(-20_000));
  });

  /** Of a process in the micro-VM. */
  const cgroup = (pid: string) => host.vm.sh(`cat /proc/${pid}/cgroup`);
  const mainPid = () => property(host.vm, AGENT, 'MainPID');
  const replaced = (pid: string) =>
    until('systemd has started another agent', 3 * MINUTE, async () => {
      const [now, state] = [await mainPid(), await property(host.vm, AGENT, 'ActiveState')];
      return now !== '0' && now !== pid && state === 'active' ? now : undefined;
    });
  const pidOf = async (argument: string) =>
    (await host.vm.sh(`pgrep -f '${argument.replace(/./, '[$&]')}' | head -n 1`)).trim();

  const nothingLeft = async (): Promise<void> => {
    let left = '';
    await until(
      () => `Nothing is left of a job: ${left}`,
      MINUTE,
      async () => {
        left = `${await systemctl(host.vm, "list-units --all --no-legend 'holdfast-job-*'")}${await host.vm.sh(
          `find /run/holdfast/agent/jobs /run/holdfast/agent/nbd /var/lib/holdfast/scratch -mindepth 1
          find ${NAS} -name '*.partial*'`,
        )}`;
        return left.trim() === '' ? true : undefined;
      },
    );
  };

  it('runs jobs outside of its cgroup, and they outlive its restart, its death and its upgrade', async () => {
    const { vm, zone } = host;
    const { client } = holdfast;
    const settings = { 'nas.backup.bandwidth.limit.mbps': '1' };
    const { id } = await client.startBackup({ zone, domain: DOMAIN, repository: 'nas', settings });
    const insults: (() => Promise<unknown>)[] = [
      () => systemctl(vm, `restart ${AGENT}`),
      () => systemctl(vm, `kill --kill-whom=all --signal=KILL ${AGENT}`),
      async () => {
        await installNextVersion(vm, '/opt/holdfast/next');
        return systemctl(vm, `restart ${AGENT}`);
      },
    ];
    const steer = async (): Promise<void> => {
      const runner = await pidOf(`runner.ts /var/lib/holdfast/agent/jobs/${id}`);
      const daemon = await pidOf(`qemu-storage-daemon.*${id}`);
      for (const pid of [runner, daemon]) {
        const scope = new RegExp(
          `^0::/holdfast\\.slice/holdfast-jobs\\.slice/holdfast-job-${id}-\\w+\\.scope$`,
          'm',
        );
        assert.match(await cgroup(pid), scope);
      }
      for (const insult of insults) {
        const before = await mainPid();
        assert.match(await cgroup(before), /^0::\/system\.slice\/holdfast-agent\.service$/m);
        await insult();
        const after = await replaced(before);
        assert.ok((await cgroup(after)).includes(AGENT));
        // Neither has been started again.
        assert.equal(await pidOf(`runner.ts /var/lib/holdfast/agent/jobs/${id}`), runner);
        assert.equal(await pidOf(`qemu-storage-daemon.*${id}`), daemon);
      }
      assert.match(await vm.sh(`tr '\\0' ' ' </proc/${await mainPid()}/cmdline`), /\/opt\/holdfast\/next\//);
      // The one at the new path is obeyed by the runner from the old one.
      await until('The agent passes a command on', 2 * MINUTE, () =>
        client
          .call(client.operations.updateOperation.bind(client.operations), {
            operationId: id,
            change: { $case: 'bandwidthLimitMibps', value: 0n },
          })
          .then(
            () => true,
            () => undefined,
          ),
      );
    };
    const followed = await client.follow(id, (event) =>
      isStart(event, Stage.STAGE_BLOCKJOB) ? steer() : undefined,
    );
    const operation = succeeded(followed);
    requireNoGaps(withoutProgress(followed.events));
    const { path: folder } = await client.getBackup(operation.backupId);
    await vm.sh(`qemu-img compare ${IMAGES}/${DOMAIN}.qcow2 ${NAS}/${folder}/vda.qcow2`, 3 * MINUTE);
    await nothingLeft();
  });

  it('leaves nothing of a job whose scope is stopped, as a shutdown does', async () => {
    const { vm, zone } = host;
    const { client } = holdfast;
    const settings = { 'nas.backup.bandwidth.limit.mbps': '1' };
    const { id } = await client.startBackup({ zone, domain: DOMAIN, repository: 'nas', settings });
    const followed = await client.follow(id, (event) =>
      isStart(event, Stage.STAGE_BLOCKJOB)
        ? systemctl(vm, `stop 'holdfast-job-${id}-*.scope'`).then(() => undefined)
        : undefined,
    );
    // Whichever of its processes ended first.
    assert.match(failed(followed).reason, /^(CANCELLED|QEMU_FAILED)$/);
    assert.deepEqual(followed.operation.warnings, []);
    await nothingLeft();
  });

  it('is killed and started again when it hangs', async () => {
    const { vm } = host;
    const before = await mainPid();
    await vm.sh(`kill -STOP ${before}`);
    await replaced(before);
    assert.match(await vm.sh('journalctl --no-pager --unit=holdfast-agent'), /watchdog/i);
  });

  it('says that it is ready no sooner than it serves, and that it ends', async () => {
    const { vm } = host;
    await systemctl(vm, `restart ${AGENT}`);
    assert.equal(await property(vm, AGENT, 'StatusErrno'), '0');
    await vm.sh(`ss -Hltn 'sport = :7600' | grep -q 127.0.0.1`);
    await systemctl(vm, `stop ${AGENT}`);
    assert.equal(await property(vm, AGENT, 'Result'), 'success');
    await systemctl(vm, `start ${AGENT}`);
  });

  it('knows a controller that systemd runs beside it, shut off from all but its state', async () => {
    const { vm } = host;
    await vm.sh(
      '/opt/holdfast/current/controller/bin/holdfast-controller --create-master-key /etc/holdfast/master.key',
      3 * MINUTE,
    );
    await systemctl(vm, 'start holdfast-controller');
    const pid = await property(vm, 'holdfast-controller', 'MainPID');
    assert.match(await vm.sh(`grep CapEff /proc/${pid}/status`), /^CapEff:\s*0+$/m);
    assert.equal(await vm.sh('stat -c %a /var/lib/holdfast/controller /run/holdfast'), '700\n711\n');
    // By the agent's own socket, as root without any capability.
    await vm.sh(
      `sed -i 's|^OPTIONS=.*|OPTIONS=|' /etc/holdfast/agent.conf; systemctl restart ${AGENT}`,
      5 * MINUTE,
    );
    const env = (await nodeEnvironment()).map((each) => `'${each}'`).join(' ');
    const run = (words: string) =>
      vm.sh(`env ${env} /opt/holdfast/current/cli/bin/holdfast ${words}`, 3 * MINUTE);
    await run(`zone create ${host.zone}`);
    await run(`host add unix:///run/holdfast/agent.sock --zone ${host.zone}`);
    assert.match(await run('host list'), /unix:.*agent\.sock/);
  });
});
