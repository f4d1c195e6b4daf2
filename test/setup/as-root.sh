#!/bin/sh
# as-root.sh COMMAND...: runs a command as root, through sudo when that is needed, with the caller's PATH.
# What root made in the checkout is given back to the caller.
[ "$(id -u)" = 0 ] && exec "$@"
if ! command -v sudo >/dev/null; then
  echo "This mounts and unshares, which needs root. Run make as root, or as root: apt-get install sudo" >&2
  exit 1
fi
# By `env`, because sudo replaces PATH by its own.
sudo env "PATH=$PATH" "$@"
status=$?
for made in .cache bench.json faults.json soak.json; do
  [ -e "$made" ] && sudo chown -R "$(id -u):$(id -g)" "$made"
done
exit "$status"
