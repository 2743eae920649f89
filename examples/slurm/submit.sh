#!/bin/sh
# Measure a study on a Slurm cluster: one array task a cell, then a job that joins what they
# measured into the study's ledger. Submit again to measure what is missing or has failed.
#
#   submit.sh STUDY.yaml [options of sbatch, such as --cpus-per-task=16 --mem=16G]
#
# The study's directory must be on a disk that the nodes share.
set -eu
study=$1
shift
base=${study%.yaml}

coppice study cells "$study" | awk -F '\t' '$2 != "done" { print $1 }' > "$base.cells"
cells=$(wc -l < "$base.cells")
if [ "$cells" -eq 0 ]; then
	echo "all cells of $study are measured"
	exit
fi
mkdir -p "$base.parts"
array=$(sbatch --parsable --array="1-$cells" "$@" "$(dirname "$0")/cell.sh" "$study")
sbatch --dependency="afterany:$array" --job-name=coppice-merge \
	--wrap "coppice study merge -o '$base.ledger.jsonl' '$base.parts'/*.jsonl"
