#!/usr/bin/env bash
# Run a command as N processes on this machine, as if each were a host.
#
#   launch/local.sh [--dry-run] N COMMAND [ARG ...]
#   launch/local.sh 2 python -m mtlflax.main --config=configs/dwa.py:quick
#
# Process 0 prints here; the others write to LOGS/process_<i>.log (LOGS defaults to a new folder under /tmp). Ctrl-C and
# SIGTERM are passed on to all, which have GRACE seconds (120) to save and end; a second Ctrl-C is passed on too. When
# one fails, the others are asked to end, and killed after PATIENCE seconds (10): one that waits for another's part of a
# sum waits forever. The exit code is that of the process that failed first, else 0.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
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
grace=${GRACE:-120}
mkdir -p "$logs"
left=()     # the processes that run
deadline=   # when those that are left are killed, in seconds since the start
signalled=

# shellcheck disable=SC2329 # the traps call it
pass_on() {
  signalled=1
  deadline=${deadline:-$((SECONDS + grace))}
  for pid in "${left[@]}"; do kill -s "$1" "$pid" 2>/dev/null || true; done
}
kill_all() { # with what they have started
  for pid in "${left[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM
trap kill_all EXIT

set -m # each process in a group of its own, so that a terminal's Ctrl-C comes to this script alone
for ((i = count - 1; i > 0; i--)); do
  JAX_PROCESS_ID=$i "$@" >"$logs/process_$i.log" 2>&1 &
  left+=($!)
done
JAX_PROCESS_ID=0 "$@" &
left+=($!)

code=0
while [ ${#left[@]} -gt 0 ]; do
  running=()
  for pid in "${left[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then running+=("$pid"); continue; fi
    status=0
    wait "$pid" 2>/dev/null || status=$?
    if [ "$status" -eq 0 ] || [ "$code" -ne 0 ]; then continue; fi
    code=$status
    if [ -z "$signalled" ]; then
      echo "a process failed with exit code $code; the logs of all but the first are in $logs" >&2
      # What went wrong may be said in one of these alone: the first may be ended before it says the same.
      for ((i = 1; i < count; i++)); do grep '^error: ' "$logs/process_$i.log" || true; done | sort -u >&2
      deadline=$((SECONDS + ${PATIENCE:-10}))
      for other in "${left[@]}"; do kill -TERM "$other" 2>/dev/null || true; done
    fi
  done
  left=(${running[@]+"${running[@]}"})
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then kill_all; fi
  sleep 0.1 || true # a signal ends it
done
exit "$code"
