import assert from 'node:assert/strict';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { requireNoGaps, withoutProgress, isStart } from '../e2e/support/events.ts';
import { IMAGES, makeIdleDomains, MINUTE } from '../e2e/support/nas.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { startHoldfast, type Holdfast } from '../harness/holdfast.ts';
import { startMicroHost, type MicroHost } from '../harness/microHost.ts';
import { until } from '../lab/deadline.ts';
import { startLab } from '../lab/lab.ts';
import { nodeEnvironment } from '../lab/microVm.ts';
import { BY_SYSTEMD, installFirstVersion, installNextVersion, property, systemctl } from './support/units.ts';

const AGENT = 'holdfast-agent.service';
const NAS = '/var/lib/nas';
/** At one MiB/s a backup lasts until the test lifts the limit. */
const SIZE_MIB = 400;
const SLOWLY = { 'nas.backup.bandwidth.limit.mbps': '1' };

describe('an agent that systemd runs', () => {
  const stack = new AsyncDisposableStack();
  let holdfast: Holdfast;
  let host: MicroHost;
  before(async function () {
    this.timeout(10 * MINUTE);
    const lab = stack.use(await startLab());
    holdfast = stack.use(await startHoldfast(lab, { clientDeadlineMs: 300_000 }));
    const prepare = async (vm: MicroHost['vm']) => {
      await vm.sh(`mkdir ${NAS}`);
      await makeIdleDomains(vm, [{ name: 'stopped' }, { name: 'running', start: true }], SIZE_MIB, 'yes');
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
      3 * MINUTE,
      async () => {
        left = `${await systemctl(host.vm, "list-units --all --no-legend 'holdfast-job-*'")}${await host.vm.sh(
          `find /run/holdfast/agent/jobs /run/holdfast/agent/nbd /var/lib/holdfast/scratch -mindepth 1
          find ${NAS} -name '*.partial*'
          grep ' fuse' /proc/mounts | grep holdfast || true
          virsh domjobinfo running | grep -v None || true`,
        )}`;
        return left.trim() === '' ? true : undefined;
      },
    );
    assert.equal((await host.vm.sh('virsh domstate running')).trim(), 'running');
  };
  const startBackup = (domain: string, settings: Record<string, string> = SLOWLY) =>
    holdfast.client.startBackup({ zone: host.zone, domain, repository: 'nas', settings });
  const proveStored = async (followed: Followed, domain: string): Promise<void> => {
    requireNoGaps(withoutProgress(followed.events));
    const { path: folder } = await holdfast.client.getBackup(succeeded(followed).backupId);
    await host.vm.sh(
      `qemu-img compare -f raw -F qcow2 ${IMAGES}/${domain}.raw ${NAS}/${folder}/vda.qcow2`,
      3 * MINUTE,
    );
  };
  /** Each in a scope of this job's own. */
  const requireOwnScope = async (jobId: string, pids: readonly string[]): Promise<void> => {
    const slice = String.raw`/holdfast\.slice/holdfast-jobs\.slice`;
    const scope = new RegExp(String.raw`^0::${slice}/holdfast-job-${jobId}-\w+\.scope$`, 'm');
    for (const pid of pids) assert.match(await cgroup(pid), scope);
  };
  /** The one at a new path is obeyed by the runner from the old one. */
  const liftLimit = (operationId: string): Promise<true> => {
    const { client } = holdfast;
    const update = client.operations.updateOperation.bind(client.operations);
    const change = { $case: 'bandwidthLimitMibps', value: 0n } as const;
    return until('The agent passes a command on', 2 * MINUTE, () =>
      client.call(update, { operationId, change }).then(
        () => true,
        () => undefined,
      ),
    );
  };
  const restart = () => systemctl(host.vm, `restart ${AGENT}`);
  const killAll = () => systemctl(host.vm, `kill --kill-whom=all --signal=KILL ${AGENT}`);
  const upgrade = async () => {
    await installNextVersion(host.vm, '/opt/holdfast/next');
    return restart();
  };

  // A push does not live long here: on an emulated host its target answers so late that the guest is freed of it.
  for (const [domain, transport, insults] of [
    ['stopped', 'direct', [restart, killAll]],
    ['running', 'pull', [restart, killAll, upgrade]],
  ] as const) {
    const all = insults.length === 3 ? 'its restart, its death and its upgrade' : 'its restart and its death';
    it(`runs jobs outside of its cgroup, and they outlive ${all}: ${domain}, ${transport}`, async () => {
      const { client } = holdfast;
      const asked = transport === 'direct' ? {} : { 'nas.backup.transport': transport };
      const { id } = await startBackup(domain, { ...SLOWLY, ...asked });
      const processes = async (): Promise<readonly string[]> => [
        await pidOf(`runner.ts /var/lib/holdfast/agent/jobs/${id}`),
        await pidOf(`qemu-storage-daemon.*${id}`),
      ];
      const insult = async (): Promise<void> => {
        const working = await processes();
        await requireOwnScope(id, working);
        for (const each of insults) {
          const before = await mainPid();
          assert.match(await cgroup(before), /^0::\/system\.slice\/holdfast-agent\.service$/m);
          await each();
          const after = await replaced(before);
          assert.ok((await cgroup(after)).includes(AGENT));
          // Neither has been started again.
          assert.deepEqual(await processes(), working);
        }
        const started = await host.vm.sh(`tr '\\0' ' ' </proc/${await mainPid()}/cmdline`);
        assert.equal(started.includes('/opt/holdfast/next/'), insults.length === 3, started);
        await liftLimit(id);
      };
      const followed = await client.follow(id, (event) =>
        isStart(event, Stage.STAGE_BLOCKJOB) ? insult() : undefined,
      );
      await proveStored(followed, domain);
      const { manifest } = await client.getBackup(succeeded(followed).backupId);
      assert.equal(manifest?.transport, transport);
      await nothingLeft();
    });
  }

  for (const domain of ['stopped', 'running']) {
    it(`leaves nothing of a job whose scope is stopped, as a shutdown does: ${domain}`, async () => {
      const { id } = await startBackup(domain);
      const followed = await holdfast.client.follow(id, (event) =>
        isStart(event, Stage.STAGE_BLOCKJOB)
          ? systemctl(host.vm, `stop 'holdfast-job-${id}-*.scope'`).then(() => undefined)
          : undefined,
      );
      // Whichever of its processes ended first.
      assert.match(failed(followed).reason, /^(CANCELLED|QEMU_FAILED)$/);
      // An emulated processor may take longer than a job that is stopped has time; the agent does it then.
      for (const { reason, message } of followed.operation.warnings)
        assert.ok(reason === 'LEFTOVERS' && message.includes('The agent goes on trying'), message);
      await nothingLeft();
    });
  }

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
    // What runs outside of systemd has the programs of that version compiled.
    await installFirstVersion(vm);
    const env = (await nodeEnvironment()).map((each) => `'${each}'`).join(' ');
    await vm.sh(
      `env ${env} /opt/holdfast/current/controller/bin/holdfast-controller --create-master-key /etc/holdfast/master.key`,
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
    const run = (words: string) =>
      vm.sh(`env ${env} /opt/holdfast/current/cli/bin/holdfast ${words}`, 3 * MINUTE);
    await run(`zone create ${host.zone}`);
    await run(`host add unix:///run/holdfast/agent.sock --zone ${host.zone}`);
    assert.match(await run('host list'), /unix:.*agent\.sock/);
  });
});
