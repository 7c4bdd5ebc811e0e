#!/bin/bash
# One run on several nodes: torchrun on each of them, started by srun; see docs/scaling.md.
#   sbatch --nodes=2 --gpus-per-node=4 docker/slurm.sh +experiment=imagenet1k_ipc10 run_dir=/shared/runs
#SBATCH --job-name=geodm_lightning
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
set -euo pipefail

processes="${SLURM_GPUS_ON_NODE:-1}"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / processes))

srun --kill-on-bad-exit=1 torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$processes" \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:29400" \
    experiments/run.py "$@"
