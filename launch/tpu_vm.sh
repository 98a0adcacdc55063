#!/usr/bin/env bash
# Train on a Cloud TPU VM slice, on all of its workers at once (they find each other).
#
#   launch/tpu_vm.sh [--dry-run] setup NAME ZONE REPOSITORY      clone and install on every worker, or update
#   launch/tpu_vm.sh [--dry-run] run NAME ZONE --config=configs/dwa.py --workdir=/shared/runs/dwa [...]
#   launch/tpu_vm.sh [--dry-run] stop NAME ZONE                  SIGTERM: all workers save, and end
#
# NAME and ZONE are those of `gcloud compute tpus tpu-vm create`. The workdir must be on a disk that all workers share
# (Filestore, or a bucket mounted by gcsfuse). A run that was preempted resumes by the same command on a new slice. The
# exit code is gcloud's: not 0 if a worker failed. PROJECT names another project; ENVIRONMENT has variables to set on the
# workers, such as ENVIRONMENT='CITYSCAPES_DATASET=/shared/cityscapes'.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi
if [ $# -lt 3 ] || ! [[ $1 =~ ^(setup|run|stop)$ ]]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
what=$1 name=$2 zone=$3
shift 3

case $what in
  setup)
    if [ $# -ne 1 ]; then echo "setup needs the address of a repository to clone" >&2; exit 2; fi
    remote="set -e; if [ -d mtlflax ]; then git -C mtlflax pull --ff-only; else git clone $(printf %q "$1") mtlflax; fi"
    remote+="; cd mtlflax; python3 -m venv .venv; .venv/bin/pip install --quiet -e '.[tpu]'"
    ;;
  run)
    if ! [[ " $* " == *" --workdir="* ]]; then echo "run needs --workdir=DIR, on a disk that all workers share" >&2; exit 2; fi
    remote="cd mtlflax && ${ENVIRONMENT:+env $ENVIRONMENT }.venv/bin/python -m mtlflax.main$(printf ' %q' "$@")"
    ;;
  stop)
    remote="pkill -TERM -f 'python -m mtlflax[.]main' && echo stopping || echo no run here"
    ;;
esac
command=(gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$remote")
if [ -n "${PROJECT:-}" ]; then command+=(--project="$PROJECT"); fi

if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
if ! command -v gcloud >/dev/null; then
  echo "gcloud is not installed: https://cloud.google.com/sdk/docs/install" >&2
  exit 127
fi
exec "${command[@]}"
