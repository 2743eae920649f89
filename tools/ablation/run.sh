#!/bin/sh
# Measures the rows of the ablation in docs/methods.md on the shared model.
#   tools/ablation/run.sh COPPICE SHARED DIR [TOKENS] [SEED]
# COPPICE is the program, SHARED the shared data, DIR where everything goes.
set -eu
coppice=$1 shared=$2 dir=$3 tokens=${4:-65536} seed=${5:-0}
mkdir -p "$dir"
go run ./tools/ablation -shared "$shared" -o "$dir/text"
[ -d "$dir/dense" ] || "$coppice" import "$shared/models/SmolLM2-135M-Instruct.Q4_1.gguf" -o "$dir/dense" --dtype f32 --quiet
stats="$dir/stats-$tokens-$seed.safetensors"
"$coppice" calib "$dir/dense" --calib "$dir/text/calibration.jsonl" --tokens "$tokens" --ctx 512 --seed "$seed" -o "$stats"

# measure NAME MODEL: what is finished is not measured again.
measure() {
	"$coppice" eval "$2" --text "$dir/text/wikitext.txt" --ctx 512 --tasks lambada_openai \
		--data "lambada_openai=$shared/data/lambada_openai/lambada_test.jsonl" --limit 200 -o "$dir/results/$1/wikitext" --quiet
	"$coppice" eval "$2" --text "$dir/text/c4.txt" --ctx 512 -o "$dir/results/$1/c4" --quiet
}

# row NAME PRUNE-FLAGS: at each ratio, all widths exact so that sizes are equal.
row() {
	name=$1
	shift
	for ratio in 0.2 0.4 0.6; do
		m="$dir/models/$name-$ratio"
		[ -d "$m" ] || "$coppice" prune "$dir/dense" -o "$m" --ratio $ratio --align 1 "$@" --quiet
		measure "$name-$ratio" "$m"
		rm -rf "$m"
	done
}

measure dense "$dir/dense"
row maxabs --method maxabs
row activation --method activation --stats "$stats"
row activation-ls --method activation --refit least-squares --stats "$stats"
row obs-ls --method obs --refit least-squares --stats "$stats"
row fluctuation-bias --method fluctuation --refit bias --stats "$stats"
