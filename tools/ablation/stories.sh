#!/bin/sh
# Has a model write stories to be calibrated on, a file each.
#   tools/ablation/stories.sh COPPICE MODEL DIR [NUMBER]
# They begin as openings.txt says, one line after another, and go on for 220 tokens; the
# seed is 1000 and the number of the story. What is there is not made again.
set -eu
coppice=$1 model=$2 dir=$3 number=${4:-543}
mkdir -p "$dir"
openings=$(dirname "$0")/openings.txt
lines=$(wc -l <"$openings")
n=0
while [ "$n" -lt "$number" ]; do
	story=$dir/$(printf %05d "$n").txt
	if [ ! -f "$story" ]; then
		opening=$(sed -n "$((n % lines + 1))p" "$openings")
		{
			printf %s "$opening"
			"$coppice" generate "$model" --prompt "$opening" --dtype q8_0 --max-tokens 220 --temperature 0.8 --top-p 0.95 --seed "$((1000 + n))" --quiet
		} >"$dir/.part"
		mv "$dir/.part" "$story"
	fi
	n=$((n + 1))
done
