#!/bin/sh
# The second start script of a micro-VM, in its final root, and process 1 for good: what Debian's start of a KVM host
# comes to. The last line on the console is "HOLDFAST READY", which is what the lab waits for.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root

hostname micro-vm
mkdir -p /dev/pts /dev/shm /run/lock /var/lib /var/log/libvirt /var/cache /var/tmp
chmod 1777 /var/tmp
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t fusectl fusectl /sys/fs/fuse/connections
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
