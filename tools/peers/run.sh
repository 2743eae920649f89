#!/bin/sh
# Checks Coppice against the Python programs it replaces: builds the binary and
# runs every check_*.py. PEERS_VENV names the virtual environment (`make
# peers-venv` makes it), COPPICE_SHARED the real model and data.
set -eu
cd "$(dirname "$0")/../.."
venv=${PEERS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/coppice/peers-venv}
if [ ! -x "$venv/bin/python" ]; then
	echo "no Python in $venv: run 'make peers-venv', or set PEERS_VENV" >&2
	exit 2
fi
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT INT TERM
CGO_ENABLED=0 go build -o "$bin/coppice" ./cmd/coppice

failed=""
for check in gguf families prune; do
	echo "== check_$check"
	"$venv/bin/python" "tools/peers/check_$check.py" --coppice "$bin/coppice" "$@" || failed="$failed check_$check"
done
if [ -n "$failed" ]; then
	echo "peers: failed:$failed" >&2
	exit 1
fi
