#!/bin/sh
# supervisor.sh LAB_DIRECTORY: process 1 of a lab's namespaces, started by startLab through unshare.
#
# A shell, because process 1 has to reap orphans (daemons of libvirt), which Node cannot.
# It lives as long as its standard input is open, that is as long as the process which owns the lab; then everything in
# the lab is killed and the directory removed, however the owner ended.
lab=$1
set -e

# /run as a whole: /run/libvirt may not exist, and no program in the lab should find the machine's own daemons.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/libvirt /run/lock
mount --bind "$lab/etc" /etc/libvirt
mount --bind "$lab/lib" /var/lib/libvirt
mount --bind "$lab/cache" /var/cache/libvirt
# As a whole again: swtpm's logs are not in libvirt's folder.
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir /var/log/libvirt
mount --bind "$lab/log" /var/log/libvirt
# The authority that certifies emulated TPMs makes itself when the first one is made.
if [ -d /var/lib/swtpm-localca ]; then
  owner=$(stat -c %u:%g /var/lib/swtpm-localca)
  mount -t tmpfs -o mode=750 tmpfs /var/lib/swtpm-localca
  chown "$owner" /var/lib/swtpm-localca
fi

set +e
libvirtd -d -f "$lab/etc/libvirtd.conf" -p "$lab/libvirtd.pid" </dev/null >"$lab/log/start.log" 2>&1 &&
  echo ready || echo failed

cat >/dev/null
kill -9 -1
rm -rf --one-file-system -- "$lab"
