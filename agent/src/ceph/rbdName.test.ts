import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { parseRbdName } from './rbdName.ts';

describe('a name of an RBD image', () => {
  it('says image, monitors, user and key as CloudStack writes them', () => {
    const name =
      'rbd:cloudstack/0f4b:mon_host=10.0.0.1\\:3300\\;mon2\\;[fd00\\:\\:1]\\:6789:auth_supported=cephx:id=vm:' +
      'key=AQBh\\=\\=:rbd_default_format=2:client_mount_timeout=30';
    const { path, cluster, key } = parseRbdName(name);
    assert.equal(path, 'cloudstack/0f4b');
    const monitors = ['10.0.0.1:3300', 'mon2:6789', '[fd00::1]:6789'];
    assert.deepEqual(cluster, { monitors, user: 'vm', confPath: '' });
    assert.equal(key?.reveal(), 'AQBh==');
  });

  it('needs no option, and takes a namespace and a configuration file', () => {
    const { path, cluster, key } = parseRbdName('rbd:p/n/a\\:b c:conf=/etc/ceph/other.conf');
    assert.equal(path, 'p/n/a:b c');
    assert.deepEqual(cluster, { monitors: [], user: '', confPath: '/etc/ceph/other.conf' });
    assert.equal(key, undefined);
  });

  for (const name of ['rbd:', 'rbd:image', 'rbd:p/i@snap', 'rbd:p//i', 'rbd:p/i:debug_ms=1:key=HUSH']) {
    it(`is refused: ${name}`, () => {
      assert.throws(
        () => parseRbdName(name),
        (error) =>
          error instanceof HoldfastError &&
          error.reason === 'DISK_UNSUPPORTED' &&
          !error.message.includes('HUSH'),
      );
    });
  }
});
