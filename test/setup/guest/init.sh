#!/bin/sh
# The first and only start script of a lab guest. Kernel parameters: holdfast.agent=0 starts no guest agent,
# holdfast.writer=N starts a writer of N MiB/s.
# The last line on the serial console is "HOLDFAST READY", which is what the lab waits for.

/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1

while read -r module; do insmod "/modules/$module"; done </modules/order

parameter() { sed -n "s/.*holdfast\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

# The first disk is /data; others are /disk/<name>. Disks without an ext4 are left alone.
for disk in /sys/block/vd* /sys/block/sd*; do
  name=${disk##*/}
  [ -b "/dev/$name" ] || continue
  place=/disk/$name
  [ "$name" = vda ] && place=/data
  mkdir -p "$place"
  mount -t ext4 "/dev/$name" "$place" 2>/dev/null || mount -t ext4 -o ro "/dev/$name" "$place" 2>/dev/null ||
    echo "HOLDFAST no file system on $name"
done

speed=$(parameter writer)
if [ -n "$speed" ] && [ "$speed" != 0 ]; then writer "$speed" & fi

# The power button, for a shutdown without guest agent.
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\nexec /sbin/shutdown\n' >/etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
acpid

if [ "$(parameter agent)" != 0 ]; then
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] || continue
    (while :; do qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /run -l /run/qemu-ga.log; sleep 1; done) &
  done
fi

echo "HOLDFAST READY kernel=$(uname -r)"
while :; do wait; sleep 1; done
