import assert from 'node:assert/strict';
import { parseRbdPath, rbdOptions, rbdPath } from './rbdImage.ts';

const KEYRING = { monitors: [], user: '', secret: undefined, confPath: '' };

describe('an RBD image', () => {
  it('is read from its path and written as it was', () => {
    for (const path of ['pool/image', 'pool/namespace/image with spaces, and: more']) {
      const image = parseRbdPath(KEYRING, path);
      assert.ok(image);
      assert.equal(rbdPath(image), path);
    }
    for (const path of ['image', '', '/image', 'pool/', 'a//b', 'a/b/c/d'])
      assert.equal(parseRbdPath(KEYRING, path), undefined, path);
  });

  it('is opened by the keyring unless there is a key', () => {
    const image = { cluster: KEYRING, pool: 'p', namespace: '', name: 'i' };
    assert.deepEqual(rbdOptions(image, undefined), { driver: 'rbd', pool: 'p', image: 'i' });
    const cluster = { ...KEYRING, monitors: ['m:3300', '[fd00::1]:6789'], user: 'vm', confPath: '/c' };
    assert.deepEqual(rbdOptions({ ...image, cluster, namespace: 'n' }, 'k'), {
      ...{ driver: 'rbd', pool: 'p', image: 'i', namespace: 'n', user: 'vm', conf: '/c', 'key-secret': 'k' },
      server: [
        { host: 'm', port: '3300' },
        { host: 'fd00::1', port: '6789' },
      ],
      'auth-client-required': ['cephx', 'none'],
    });
  });
});
