#!/usr/bin/env bash
# Runs a command on every host of a Cloud TPU slice.
#
#   experiments/launch/gcloud_tpu.sh NAME ZONE COMMAND...
#   experiments/launch/gcloud_tpu.sh pod us-east5-b dim-jax train \
#       --config=dim_cifar10 --workdir=gs://BUCKET/run
#
# Every host has the checkout in FOLDER (dim_jax), with its environment in
# .venv. DRY_RUN=1 prints what would be run. The hosts find one another through
# the metadata server, so that nothing else is needed.
set -euo pipefail

if [ "$#" -lt 3 ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1
zone=$2
shift 2

# Quoted once more, since a shell on the host reads it.
remote="cd ${FOLDER:-dim_jax} && PATH=\$PWD/.venv/bin:\$PATH $(printf '%q ' "$@")"
run=(gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all
  --command="$remote")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${run[@]}"
  echo
else
  exec "${run[@]}"
fi
