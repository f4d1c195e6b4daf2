#!/bin/sh
# nas.sh LAB_DIRECTORY: process 1 of a file server's namespaces, see supervisor.sh. The lab's programs lie over the
# machine's, and the lab's users over its users; what is exported is a file system of its own.
lab=$1
set -e

mount -t overlay -o "lowerdir=$lab/programs/usr:/usr" overlay /usr
# The server is to find no daemon of the machine to announce itself to.
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$lab/passwd" /etc/passwd
mount -o loop "$lab/disk" "$lab/export"
mkdir -p "$lab/export/backups" "$lab/export/readonly"

echo ready
# Not by cat: the server's end is a signal to every process but this one.
while read -r _; do :; done
kill -9 -1
umount -l "$lab/export"
rm -rf --one-file-system -- "$lab"
