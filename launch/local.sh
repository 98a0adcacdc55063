#!/usr/bin/env bash
# Run a command as N processes on this machine, as if each were a host.
#
#   launch/local.sh [--dry-run] N COMMAND [ARG ...]
#   launch/local.sh 2 python -m mtlflax.main --config=configs/dwa.py:quick
#
# Process 0 prints here; the others write to LOGS/process_<i>.log (LOGS defaults to a new folder under /tmp). When one
# fails, and at Ctrl-C, all are stopped; those still running after 10 seconds are killed, because a process that waits
# for another's part of a sum waits forever. The exit code is that of the process that failed.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
count=$1; shift

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS="localhost:$port" JAX_NUM_PROCESSES="$count"

if [ -n "$dry_run" ]; then
  for ((i = 0; i < count; i++)); do
    echo "JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$i $*"
  done
  exit 0
fi

logs=${LOGS:-$(mktemp -d /tmp/mtlflax_logs.XXXXXX)}
mkdir -p "$logs"
pids=()
stop() {
  trap '' INT TERM
  kill "${pids[@]}" 2>/dev/null || return 0 # none is left
  for ((tenths = 0; tenths < 100; tenths++)); do
    kill -0 "${pids[@]}" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for ((i = count - 1; i > 0; i--)); do
  JAX_PROCESS_ID=$i "$@" >"$logs/process_$i.log" 2>&1 &
  pids+=($!)
done
JAX_PROCESS_ID=0 "$@" &
pids+=($!)

for ((left = count; left > 0; left--)); do
  code=0
  wait -n "${pids[@]}" 2>/dev/null || code=$? # it complains about those that ended earlier
  if [ "$code" -ne 0 ]; then
    echo "a process failed with exit code $code; the logs of all but the first are in $logs" >&2
    exit "$code"
  fi
done
