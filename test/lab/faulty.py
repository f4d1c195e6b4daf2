"""faulty.py MOUNT-POINT DIRECTORY FAULT-FILE: the directory, mounted once more, as a NAS that has faults.

FAULT-FILE is read at each call: empty, or one of full, EIO, read-only, slow, stale. A NAS that hangs is this process
stopped, one that is gone is this process killed.
"""
import errno
import os
import sys
import time

import fusepy

point, directory, fault_file = sys.argv[1:]
SLOW_SECONDS = 0.05
WRITING = {"chmod", "chown", "create", "fallocate", "link", "mkdir", "mknod", "rename", "rmdir", "symlink"}
WRITING |= {"truncate", "unlink", "utimens", "write"}
GROWING = {"create", "link", "mkdir", "mknod", "symlink", "write"}
# The kernel asks for these when a process ends; their answer says nothing to anyone.
CLOSING = {"destroy", "init", "release", "releasedir"}


class Faulty(fusepy.Operations):
    def __call__(self, name, path, *args):
        if name not in CLOSING:
            require_no_fault(name, path, args)
        return getattr(self, name)(os.path.join(directory, path.lstrip("/")) if path else directory, *args)

    def access(self, path, mode):
        if not os.access(path, mode):
            raise fusepy.FuseOSError(errno.EACCES)

    chmod = staticmethod(os.chmod)
    chown = staticmethod(os.lchown)
    mkdir = staticmethod(os.mkdir)
    readlink = staticmethod(os.readlink)
    rmdir = staticmethod(os.rmdir)
    unlink = staticmethod(os.unlink)

    def create(self, path, mode, fi=None):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def destroy(self, path):
        pass

    def flush(self, path, fh):
        pass

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def fsyncdir(self, path, datasync, fh):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def getattr(self, path, fh=None):
        found = os.fstat(fh) if fh else os.lstat(path)
        names = ("st_atime", "st_ctime", "st_mtime", "st_gid", "st_uid", "st_mode", "st_nlink", "st_size", "st_blocks")
        return {name: getattr(found, name) for name in (*names, "st_ino")}

    def getxattr(self, path, name, position=0):
        raise fusepy.FuseOSError(errno.ENOTSUP)

    listxattr = removexattr = setxattr = getxattr

    def link(self, target, source):
        os.link(os.path.join(directory, source.lstrip("/")), target)

    def open(self, path, flags):
        # What is opened to be written to only is read too, by a page that is written to in part.
        return os.open(path, flags & ~(os.O_CREAT | os.O_EXCL | os.O_APPEND))

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(path)]

    def release(self, path, fh):
        os.close(fh)

    def rename(self, old, new):
        os.rename(old, os.path.join(directory, new.lstrip("/")))

    def statfs(self, path):
        space = os.statvfs(path)
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize", "f_namemax")
        found = {name: getattr(space, name) for name in names}
        if fault() == "full":
            found.update(f_bavail=0, f_bfree=0)
        return found

    def truncate(self, path, length, fh=None):
        os.truncate(fh if fh else path, length)

    def utimens(self, path, times=None):
        os.utime(path, times)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)


def fault():
    with open(fault_file) as file:
        return file.read().strip()


def require_no_fault(name, path, args):
    now = fault()
    if now == "slow":
        time.sleep(SLOW_SECONDS)
    elif now == "EIO":
        raise fusepy.FuseOSError(errno.EIO)
    elif now == "stale":
        raise fusepy.FuseOSError(errno.ESTALE)
    elif now == "full" and (name in GROWING or (name == "truncate" and grows(path, args[0]))):
        raise fusepy.FuseOSError(errno.ENOSPC)
    elif now == "read-only" and (name in WRITING or (name == "open" and args[0] & (os.O_WRONLY | os.O_RDWR))):
        raise fusepy.FuseOSError(errno.EROFS)


def grows(path, length):
    return length > os.lstat(os.path.join(directory, path.lstrip("/"))).st_size


# Nothing is answered from memory but by this process: it is asked each time. `hard_remove`: a file that is open and
# removed is gone, as on a disk.
fusepy.FUSE(
    Faulty(),
    point,
    foreground=True,
    fsname="faulty",
    allow_other=True,
    direct_io=True,
    hard_remove=True,
    attr_timeout=0,
    entry_timeout=0,
    negative_timeout=0,
)
