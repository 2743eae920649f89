#!/bin/sh
# Checks Coppice against the Python programs it replaces: builds the binary and
# runs every check. PEERS_VENV names the virtual environment (`make peers-venv`
# makes it), PEERS_VENV_OLD that of transformers of two years before (default:
# PEERS_VENV with -old), COPPICE_SHARED the real model and data; arguments go to every
# check_*.py. CHECKS names the checks to run.
set -eu
cd "$(dirname "$0")/../.."
venv=${PEERS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/coppice/peers-venv}
shared=${COPPICE_SHARED:-../shared}
if [ ! -x "$venv/bin/python" ]; then
	echo "no Python in $venv: run 'make peers-venv', or set PEERS_VENV" >&2
	exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
CGO_ENABLED=0 go build -o "$work/coppice" ./cmd/coppice

failed=""
for check in ${CHECKS:-gguf families prune forms best tokenizer engine eval export card}; do
	echo "== $check"
	if [ "$check" = tokenizer ]; then
		"$venv/bin/python" tools/peers/tokenizer_check.py --shared "$shared" --work "$work/tokenizer" --coppice "$work/coppice" || failed="$failed $check"
	else
		"$venv/bin/python" "tools/peers/check_$check.py" --coppice "$work/coppice" "$@" || failed="$failed $check"
	fi
done
if [ -n "$failed" ]; then
	echo "peers: failed:$failed" >&2
	exit 1
fi
