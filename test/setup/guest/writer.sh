#!/bin/sh
# writer MIB_PER_SECOND: rewrites eight files of 1 MiB in turn, and after each appends its number to a counter; both
# are on the disk (fsync) before the next begins. So a consistent copy has every line of the counter from 1 on.
mkdir -p /data/busy
count=$(tail -n 1 /data/busy/counter 2>/dev/null)
count=${count:-0}
while :; do
  dd if=/dev/urandom "of=/data/busy/file.$((count % 8))" bs=64k count=16 conv=fsync 2>/dev/null
  count=$((count + 1))
  echo "$count" | dd of=/data/busy/counter oflag=append conv=notrunc,fsync 2>/dev/null
  usleep $((1000000 / $1))
done
