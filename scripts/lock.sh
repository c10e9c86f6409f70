#!/usr/bin/env bash
# Update requirements.lock: every package for CPU development and CI, with its version and the SHA-256 of its files.
#
# It is valid for Linux and Python 3.11 and newer; if a package dropped an older Python, markers choose the version.
# torch and the libraries of its GPU builds are excluded: the right build depends on the machine
# (scripts/setup_venv.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

torch=$(sed -n 's/^torch_version=//p' scripts/setup_venv.sh)
compile() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"
}
left_out=$(echo "torch==$torch" | compile - | sed -n -E 's/^((torch|triton|cuda-|nvidia-)[^= ]*)==.*/--no-emit-package \1/p')

{
    echo "# Made by 'make lock'; not edited by hand. torch is not in it: scripts/setup_venv.sh says why."
    # shellcheck disable=SC2086  # a list of words
    echo "torch==$torch" | compile pyproject.toml - --extra dev --upgrade --generate-hashes $left_out
} >requirements.lock.new
mv requirements.lock.new requirements.lock
