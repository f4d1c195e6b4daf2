#!/bin/sh
# The first start script of a micro-VM, in its initramfs: its root is this machine's own file system (virtiofs,
# read-only) under the lab's programs, and under a tmpfs that takes what is written. start.sh goes on from there; with
# the kernel parameter holdfast.init=systemd, systemd does, and runs start.sh as a service.

/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1

while read -r module; do insmod "/modules/$module"; done </modules/order

mkdir -p /machine /programs /written /root
mount -t virtiofs -o ro machine /machine
mount -t virtiofs -o ro programs /programs
mount -t tmpfs tmpfs /written
mkdir /written/upper /written/work
mount -t overlay -o lowerdir=/programs:/machine,upperdir=/written/upper,workdir=/written/work root /root ||
  { echo "HOLDFAST no root file system"; exec sh; }

for folder in proc sys dev run tmp; do mkdir -p "/root/$folder"; done
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mount -t tmpfs -o mode=755 tmpfs /root/run
mount -t ext4 /root/dev/vda /root/var
cp /start.sh /root/run/start.sh
grep -q holdfast.init=systemd /root/proc/cmdline || exec switch_root /root /bin/sh /run/start.sh

# Of the machine's own services none is to start, so what is enabled and configured there is not seen.
mount -t tmpfs tmpfs /root/etc/systemd
# This is no container, though the machine may be one.
rm -f /root/.dockerenv
mkdir -p /root/run/systemd/system
cp /lab.service /root/run/systemd/system/lab.service
exec switch_root /root /lib/systemd/systemd
