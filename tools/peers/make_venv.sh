#!/bin/sh
# Makes the virtual environment of the peers outside the repository, with the
# pinned versions of requirements.txt. PYTHON names the interpreter (3.10 or
# later), PEERS_VENV the directory.
set -eu
here=$(dirname "$0")
venv=${PEERS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/coppice/peers-venv}
if [ ! -x "$venv/bin/python" ]; then
	mkdir -p "$(dirname "$venv")"
	"${PYTHON:-python3}" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet -r "$here/requirements.txt"
echo "the peers are in $venv"
