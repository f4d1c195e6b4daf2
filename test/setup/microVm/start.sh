#!/bin/sh
# The second start script of a micro-VM, in its final root: what Debian's start of a KVM host comes to. It is process 1
# for good, or a service of systemd, which has done a part already. The last line on the console is "HOLDFAST READY",
# which is what the lab waits for.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root

hostname micro-vm
mkdir -p /dev/pts /dev/shm /run/lock /var/lib /var/log/libvirt /var/cache /var/tmp
chmod 1777 /var/tmp
mounted() { mountpoint -q "$1" || mount -t "$2" -o "${3:-defaults}" "$2" "$1"; }
mounted /dev/pts devpts
mounted /dev/shm tmpfs mode=1777
mounted /sys/fs/cgroup cgroup2
mounted /sys/kernel/security securityfs
mounted /sys/fs/fuse/connections fusectl
# As systemd does: what is mounted later must be seen in QEMU's namespaces too.
mount --make-rshared /
ln -sfn /run /var/run
ln -sfn /run/lock /var/lock
# The machine may be a lab's own, with files over these.
mount -t tmpfs tmpfs /etc/libvirt

ip link set lo up
ip link set eth0 up
# QEMU's user network: the machine's loopback is 10.0.2.2.
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

apparmor_parser --replace --skip-cache /etc/apparmor.d/usr.sbin.libvirtd /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper
# libvirtd asks each emulator that it finds what it can do, which takes an emulated host its time.
rm -f /usr/bin/qemu-system-i386
virtlogd -d
libvirtd -d

# The agent under test listens on loopback alone, as it must.
socat TCP-LISTEN:7600,bind=10.0.2.15,fork,reuseaddr TCP:127.0.0.1:7600 2>/var/log/socat.log &
for port in /sys/class/virtio-ports/*; do
  [ "$(cat "$port/name")" = org.qemu.guest_agent.0 ] || continue
  qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /run -l /run/qemu-ga.log &
done

echo "HOLDFAST READY kernel=$(uname -r)"
while :; do wait; sleep 1; done
