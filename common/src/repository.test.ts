import assert from 'node:assert/strict';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { HoldfastError } from './errors.ts';
import { describePlace, parseRepositoryPlace, type GivenPlace } from './repository.ts';

const SECRET = 'hunter2!';
const CEPH_KEY = 'AQBSdFhcGZFUDRAAcKhG9Cl2HPiDMMRv4DC43A==';
const user = { username: 'backup', password: SECRET, domain: 'WORK' };
const client = { username: 'backup', password: CEPH_KEY, domain: '' };
const nfs = (address: string, more: Partial<GivenPlace> = {}): GivenPlace =>
  place({ type: RepositoryType.REPOSITORY_TYPE_NFS, address, ...more });
const cifs = (address: string, more: Partial<GivenPlace> = {}): GivenPlace =>
  place({ type: RepositoryType.REPOSITORY_TYPE_CIFS, address, credentials: user, ...more });
const ceph = (address: string, more: Partial<GivenPlace> = {}): GivenPlace =>
  place({ type: RepositoryType.REPOSITORY_TYPE_CEPH, address, credentials: client, ...more });
const local = (path: string, more: Partial<GivenPlace> = {}): GivenPlace =>
  place({ type: RepositoryType.REPOSITORY_TYPE_LOCAL, path, ...more });
function place(given: Partial<GivenPlace>): GivenPlace {
  return { type: 0, path: '', address: '', mountOptions: [], credentials: undefined, ...given };
}

describe('the place of a repository', () => {
  it('has one form, however it is written', () => {
    for (const [given, expected] of [
      [nfs('nas:/srv//backups/'), 'nas:/srv/backups'],
      [nfs('nas:/'), 'nas:/'],
      [nfs('[fe80::1%eth0]:/x'), '[fe80::1%eth0]:/x'],
      [nfs(`nas.example.com:/sp ace, "quo'te" ö\\`), `nas.example.com:/sp ace, "quo'te" ö\\`],
      [cifs('\\\\server\\share'), '//server/share'],
      [cifs(`\\\\server\\my share\\sub 'dir'\\`), `//server/my share/sub 'dir'`],
      [cifs('//10.0.0.1/share$'), '//10.0.0.1/share$'],
      [ceph('mon1:6789,mon2:6789:/path'), 'mon1:6789,mon2:6789:/path'],
      [ceph('[::1]:6789,mon2:/a, b'), '[::1]:6789,mon2:/a, b'],
      [ceph('mon:/'), 'mon:/'],
    ] as const) {
      const parsed = parseRepositoryPlace(given);
      assert.equal(parsed.address, expected);
      assert.equal(describePlace(parsed), expected);
      // What came out goes in again: controllers store it, agents check it once more.
      assert.equal(parseRepositoryPlace({ ...given, ...parsed }).address, expected);
    }
    assert.equal(parseRepositoryPlace(local('/a//b/')).path, '/a/b');
    assert.equal(parseRepositoryPlace(local('/')).path, '/');
    assert.equal(
      parseRepositoryPlace({ ...local('/a'), type: 0 }).type,
      RepositoryType.REPOSITORY_TYPE_LOCAL,
    );
  });

  it('is refused when it could be understood in two ways', () => {
    for (const given of [
      nfs(''),
      nfs('/srv'),
      nfs('nas'),
      nfs('nas:srv'),
      nfs(':/srv'),
      nfs('-o:/srv'),
      nfs('nas -o exec:/srv'),
      nfs('nas,exec:/srv'),
      nfs('nas:/a/../b'),
      nfs('nas:/..'),
      nfs('nas:/a\nb'),
      nfs('nas:/a\0b'),
      nfs(`nas:/${'x'.repeat(5_000)}`),
      nfs('nas:/x', { path: '/x' }),
      nfs('nas:/x', { credentials: user }),
      cifs('//server'),
      cifs('//server/'),
      cifs('/server/share'),
      cifs('server/share'),
      cifs('//user:pass@server/share'),
      cifs('//server/share,exec'),
      cifs('//server/sh"are'),
      cifs('\\\\server\\share\\..\\other'),
      ceph('mon:6789'),
      ceph('mon:6789:path'),
      ceph('mon:port:/path'),
      ceph(',mon:/path'),
      ceph('mon:/path', { credentials: undefined }),
      local('relative'),
      local(''),
      local('/a\0'),
      local('/a', { address: 'nas:/x' }),
      local('/a', { mountOptions: ['rw'] }),
      local('/a', { credentials: user }),
      place({ type: 99 as RepositoryType }),
    ]) {
      assert.throws(() => parseRepositoryPlace(given), { reason: 'INVALID_REQUEST' }, JSON.stringify(given));
    }
  });

  it('takes credentials that the programs can carry, and repeats no secret', () => {
    for (const credentials of [
      { ...user, password: `p, "w' =\\ö % ` },
      { ...user, domain: '' },
      { ...user, username: `o'neil smith` },
    ]) {
      parseRepositoryPlace(cifs('//s/x', { credentials }));
    }
    for (const given of [
      cifs('//s/x', { credentials: { ...user, username: '' } }),
      cifs('//s/x', { credentials: { ...user, password: '' } }),
      cifs('//s/x', { credentials: { ...user, username: `WORK\\${SECRET}` } }),
      cifs('//s/x', { credentials: { ...user, username: `u%${SECRET}` } }),
      cifs('//s/x', { credentials: { ...user, username: `u,password=${SECRET}` } }),
      cifs('//s/x', { credentials: { ...user, domain: `${SECRET},exec` } }),
      cifs('//s/x', { credentials: { ...user, password: `${SECRET}\nusername=root` } }),
      cifs('//s/x', { credentials: { ...user, password: SECRET.repeat(100) } }),
      ceph('mon:/x', { credentials: { ...client, username: 'client.backup' } }),
      ceph('mon:/x', { credentials: { ...client, username: `a b${SECRET}` } }),
      ceph('mon:/x', { credentials: { ...client, password: SECRET } }),
      ceph('mon:/x', { credentials: { ...client, password: `${CEPH_KEY}\n[client.admin]${SECRET}` } }),
      ceph('mon:/x', { credentials: { ...client, domain: SECRET } }),
      cifs('//s/x', { mountOptions: [`password=${SECRET}`] }),
      cifs('//s/x', { mountOptions: [`seal,password=${SECRET}`] }),
      cifs('//s/x', { mountOptions: [SECRET] }),
    ]) {
      assert.throws(
        () => parseRepositoryPlace(given),
        (error) =>
          error instanceof HoldfastError &&
          error.reason === 'INVALID_REQUEST' &&
          !error.message.includes(SECRET),
      );
    }
  });
});
