#!/bin/sh
# Makes the virtual environments of the peers outside the repository: one with the
# pinned versions of requirements.txt, and beside it, named -old, one with
# transformers of two years before, for which check_forms.py asks; it takes torch
# and the rest from the first. PYTHON names the interpreter (3.10 or later),
# PEERS_VENV and PEERS_VENV_OLD the directories.
set -eu
here=$(dirname "$0")
venv=${PEERS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/coppice/peers-venv}
if [ ! -x "$venv/bin/python" ]; then
	mkdir -p "$(dirname "$venv")"
	"${PYTHON:-python3}" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet -r "$here/requirements.txt"
old=${PEERS_VENV_OLD:-$venv-old}
if [ ! -x "$old/bin/python" ]; then
	"${PYTHON:-python3}" -m venv "$old"
fi
site='import sysconfig; print(sysconfig.get_paths()["purelib"])'
"$venv/bin/python" -c "$site" >"$("$old/bin/python" -c "$site")/peers.pth"
# pip sees the first environment's packages too and warns that some want a newer
# huggingface-hub; nothing that check_forms.py imports does.
"$old/bin/python" -m pip install --quiet -r "$here/requirements-old.txt"
echo "the peers are in $venv and $old"
