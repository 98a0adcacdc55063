#!/usr/bin/env bash
# Start or stop a Slurm cluster of this machine alone, for tests/cli/test_slurm.py (Debian: apt-get install slurm-wlm munge).
#
#   tests/cli/slurm_cluster.sh start DIR     its files are in DIR; then: export SLURM_CONF=DIR/slurm.conf
#   tests/cli/slurm_cluster.sh stop DIR
set -euo pipefail
dir=$2
if [ "$1" = stop ]; then
  for name in slurmctld slurmd munged; do
    if [ -s "$dir/$name.pid" ]; then kill "$(cat "$dir/$name.pid")" 2>/dev/null || true; fi
  done
  exit 0
fi
mkdir -p "$dir/spool" "$dir/state"
host=$(hostname -s)
cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmdSpoolDir=$dir/spool
StateSaveLocation=$dir/state
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2
MpiDefault=none
JobRequeue=1
KillWait=30
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
dd if=/dev/urandom of="$dir/munge.key" bs=1024 count=1 status=none
chmod 600 "$dir/munge.key"
chmod 755 "$dir"
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
export SLURM_CONF=$dir/slurm.conf
slurmctld
slurmd
for ((i = 0; i < 60; i++)); do
  if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then exit 0; fi
  sleep 0.5
done
sinfo >&2
tail -5 "$dir"/*.log >&2
exit 1
