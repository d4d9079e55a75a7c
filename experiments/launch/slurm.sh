#!/usr/bin/env bash
# Runs a command as one process a GPU, on the nodes of a Slurm job.
#
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 \
#       experiments/launch/slurm.sh dim-jax train \
#       --config=dim_cifar10 --workdir=/shared/run
#
# Submit it from the checkout, which all nodes see, with its environment in
# .venv. DRY_RUN=1 prints what would be run.
#
#SBATCH --job-name=dim_jax
#SBATCH --output=%x-%j.log
# A minute before the time is up each process gets SIGTERM, which saves; the job
# then waits to go on from there.
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ "$#" -eq 0 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
export PATH="${SLURM_SUBMIT_DIR:-$PWD}/.venv/bin:$PATH"
# Where one process ends, no other waits for it.
run=(srun --kill-on-bad-exit=1 --label "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${run[@]}"
  echo
  exit 0
fi
status=0
"${run[@]}" || status=$?
# 143: stopped by SIGTERM behind a save.
if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
