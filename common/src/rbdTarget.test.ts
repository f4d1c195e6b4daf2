import assert from 'node:assert/strict';
import { RbdTarget } from '@holdfast/proto/holdfast/v1/backup.ts';
import { requireRbdTarget } from './rbdTarget.ts';

const GOOD = RbdTarget.fromPartial({
  ...{ pool: 'vms', namespace: 'n', monitors: ['10.0.0.1:3300', '[fd00::1]:6789', 'mon-a.lan:6789'] },
  ...{ user: 'vm', secretUuid: '00000000-0000-4000-8000-000000000000', confPath: '/etc/ceph/b.conf' },
});

describe('the target of a restore to RBD', () => {
  it('is taken when each part is what it is called', () => {
    requireRbdTarget(GOOD);
    requireRbdTarget(RbdTarget.fromPartial({ pool: 'vms' }));
  });

  for (const bad of [
    { pool: '' },
    { pool: 'a/b' },
    { pool: 'a@b' },
    { pool: 'a b' },
    { pool: '--yes' },
    { namespace: 'a/b' },
    { user: 'vm\n' },
    { monitors: ['10.0.0.1'] },
    { monitors: ['10.0.0.1:3300,10.0.0.2:3300'] },
    { secretUuid: 'vm' },
    { confPath: 'ceph.conf' },
    { confPath: '/etc/\0' },
  ] satisfies Partial<RbdTarget>[]) {
    it(`is refused with ${JSON.stringify(bad)}`, () => {
      assert.throws(
        () => {
          requireRbdTarget({ ...GOOD, ...bad });
        },
        { reason: 'INVALID_REQUEST' },
      );
    });
  }
});
