#!/usr/bin/env bash
# Make .venv with everything the project and its tests need.  Can be run again at any time.
#
# A torch that is already in .venv is kept, so a ROCm or CUDA build that you installed stays; without one, the CPU
# build is installed: from PyTorch's own index where it can be reached, else from the index pip is set up with.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
torch_version=2.13.0

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) found, halo-forge needs Python 3.11 or newer" >&2
    echo "  do: install one and run: make setup PYTHON=python3.12" >&2
    exit 1
fi
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || {
        rm -rf .venv
        echo "error: this Python cannot make a virtual environment" >&2
        echo "  do: on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "installing torch $torch_version (CPU build)"
    pip install --index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10 "torch==$torch_version" 2>/dev/null ||
        pip install "torch==$torch_version"
fi

# The project is installed again only when its list of dependencies changed.
stamp=.venv/.halo-forge-$(cksum <pyproject.toml | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
    echo "installing halo-forge and its tools"
    pip install --editable '.[dev]'
    rm -f .venv/.halo-forge-*
    touch "$stamp"
fi
