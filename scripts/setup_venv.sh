#!/usr/bin/env bash
# Make .venv with everything the project and its tests need, at the versions and SHA-256 sums of requirements.lock.
# Can be run again at any time. Reports to standard error: the standard output of `make demo` is its result.
#
# torch is not in the lock, because its builds for CPU, CUDA and ROCm carry one version and different files. A torch
# that is already in .venv is kept, so the ROCm or CUDA build that you installed stays; without one, the CPU build of
# the version below is installed: from PyTorch's own index if it can be reached, otherwise from the index that pip is
# configured with. What torch itself needs (sympy, networkx ...) is locked.
set -euo pipefail
exec >&2
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
torch_version=2.13.0

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) found, halo-forge needs Python 3.11 or newer" >&2
    echo "  fix: install one and run: make setup PYTHON=python3.12" >&2
    exit 1
fi
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || {
        rm -rf .venv
        echo "error: this Python cannot create a virtual environment" >&2
        echo "  fix: on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

installed=
# Reinstalled only if the project's metadata or the lock changed.
stamp=.venv/.halo-forge-$(cat pyproject.toml requirements.lock | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
    echo "installing the packages of requirements.lock"
    rm -f .venv/.halo-forge-*
    pip install --no-compile --no-deps --require-hashes --requirement requirements.lock
    installed=yes
fi

if ! .venv/bin/python -c 'from importlib.metadata import version; version("torch")' 2>/dev/null; then
    echo "installing torch $torch_version (CPU build)"
    pip install --no-compile --index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10 \
        "torch==$torch_version" 2>/dev/null || pip install --no-compile "torch==$torch_version"
    installed=yes
fi
.venv/bin/python scripts/check_torch.py
if [ -n "$installed" ]; then
    # On all processors, where pip compiles one file after the other. Like pip it passes over files that do not compile:
    # some packages have files for other versions of Python.
    .venv/bin/python -W ignore -m compileall -qq -j 0 .venv/lib || true
fi

if [ ! -e "$stamp" ]; then
    echo "installing halo-forge"
    .venv/bin/python scripts/check_torch.py --import
    pip install --no-deps --no-build-isolation --editable .
    touch "$stamp"
fi
