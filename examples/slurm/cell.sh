#!/bin/sh
#SBATCH --job-name=coppice-cell
#SBATCH --requeue
# An array task of submit.sh: one cell, into a ledger of its own. A task that was preempted or
# whose node failed is requeued and goes on where it was.
set -eu
base=${1%.yaml}
id=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$base.cells")
exec coppice study run "$1" --cell "$id" --ledger "$base.parts/$id.jsonl" --threads "${SLURM_CPUS_PER_TASK:-1}"
