#!/bin/sh
# What qemu-ga's guest-shutdown and the power button run. `-r` (as qemu-ga passes it) reboots.
# In the background after a moment: the guest agent waits for this program before it answers.
action=poweroff
[ "$1" = -r ] && action=reboot
(
  sleep 0.2
  echo "HOLDFAST $action" >/dev/console
  killall writer dd 2>/dev/null
  sync
  umount -r -a -t ext4
  "$action" -f
) >/dev/null 2>&1 &
