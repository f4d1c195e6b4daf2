#!/bin/sh
# postgres.sh LAB_DIRECTORY: process 1 of a PostgreSQL server's namespaces, see supervisor.sh. The programs are bound to a
# place that a user without rights can reach, since the server refuses to be root; `$lab/root` leads to them.
lab=$1
set -e

mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/programs
mount --bind "$lab/root/usr" /run/programs
export LD_LIBRARY_PATH="/run/programs/lib/$(uname -m)-linux-gnu"
bin=/run/programs/lib/postgresql/15/bin
as_nobody() { setpriv --reuid=nobody --regid=nogroup --clear-groups -- "$@"; }

chown nobody "$lab/lib" "$lab/run"
cd "$lab/lib"
as_nobody "$bin/initdb" --pgdata="$lab/lib/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
  --no-sync >"$lab/log/start.log" 2>&1
# Nothing here has to outlive the machine.
as_nobody "$bin/postgres" -D "$lab/lib/data" -c listen_addresses= -c unix_socket_directories="$lab/run" -c fsync=off \
  -c full_page_writes=off -c max_connections=100 -c jit=off >>"$lab/log/start.log" 2>&1 &

set +e
tries=0
until as_nobody "$bin/pg_isready" --quiet --host="$lab/run" --username=postgres; do
  tries=$((tries + 1))
  if [ "$tries" = 200 ]; then
    echo failed
    break
  fi
  sleep 0.1
done
echo ready
cat >/dev/null
kill -9 -1
rm -rf --one-file-system -- "$lab"
