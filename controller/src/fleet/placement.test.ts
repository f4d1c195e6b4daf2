import assert from 'node:assert/strict';
import { HostState } from '@holdfast/proto/holdfast/v1/host.ts';
import { fitHosts, noFitHost, type Need, type PlacementHost } from './placement.ts';

const ANY: Need = { feature: '', label: '', preferred: '' };

const host = (name: string, more: Partial<PlacementHost> = {}): PlacementHost => ({
  ...{ name, drained: false, state: HostState.HOST_STATE_UP, labels: {} },
  ...{ capabilities: undefined, runningOperations: 0, queuedOperations: 0 },
  ...more,
});
const names = (hosts: readonly PlacementHost[], need: Partial<Need> = {}): string[] =>
  fitHosts(hosts, { ...ANY, ...need }).map((each) => each.host);

describe('placing work that any host could do', () => {
  it('takes the least busy, then the preferred, then the first by name', () => {
    const hosts = [
      host('h3'),
      host('h1', { queuedOperations: 1 }),
      host('h2'),
      host('h0', { runningOperations: 2 }),
    ];
    assert.deepEqual(names(hosts), ['h2', 'h3', 'h1', 'h0']);
    assert.deepEqual(names(hosts, { preferred: 'h3' }), ['h3', 'h2', 'h1', 'h0']);
    assert.deepEqual(names(hosts, { preferred: 'h0' }), ['h2', 'h3', 'h1', 'h0']);
  });

  it('leaves out what is drained, down, not labelled, or lacks a feature', () => {
    const hosts = [
      host('drained', { drained: true, labels: { role: 'x' } }),
      host('down', { state: HostState.HOST_STATE_DOWN, labels: { role: 'x' } }),
      host('plain'),
      host('bare', { labels: { role: 'x' }, capabilities: { toolVersions: {}, features: [] } }),
      host('silent', { labels: { role: 'x' }, state: HostState.HOST_STATE_UNKNOWN }),
      host('able', {
        ...{ labels: { role: 'x' }, runningOperations: 3 },
        capabilities: { toolVersions: {}, features: ['repository.nfs'] },
      }),
    ];
    const need = { ...ANY, feature: 'repository.nfs', label: 'role=x' };
    assert.deepEqual(fitHosts(hosts, need), [
      {
        host: 'silent',
        reason:
          'The least busy of 2 hosts that fit, with 0 operations. Not fit: drained is drained, down does not answer, plain ' +
          'lacks the label role=x, bare lacks repository.nfs.',
      },
      {
        host: 'able',
        reason:
          'Of 2 hosts that fit, the least busy that could take it, with 3 operations. Not fit: drained is drained, down does not ' +
          'answer, plain ' +
          'lacks the label role=x, bare lacks repository.nfs.',
      },
    ]);
  });

  it('says why none fits', () => {
    const drained = host('h1', { drained: true });
    const down = host('h2', { state: HostState.HOST_STATE_DOWN });
    const reason = (...hosts: PlacementHost[]) => noFitHost('z1', 'verify the backup', hosts, ANY);
    assert.equal(reason().reason, 'HOST_NOT_FOUND');
    assert.equal(reason(drained).reason, 'HOST_DRAINED');
    assert.equal(reason(drained, down).reason, 'AGENT_UNREACHABLE');
    assert.equal(
      reason(drained, down).message,
      'No host of zone z1 can verify the backup: h1 is drained, h2 does not answer.',
    );
  });
});
