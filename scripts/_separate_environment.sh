#!/usr/bin/env bash
# Shared by setup_llama_cpp.sh and setup_vllm_cpu.sh, which source it with their own arguments: a virtual environment
# in the folder ENV_DIR, and torch in it.
#
# Sets: folder, torch_version. Defines: pip, install_torch.
set -euo pipefail

torch_version=2.13.0
[ $# -eq 1 ] || { echo "usage: bash $0 ENV_DIR" >&2; exit 2; }
folder=$1

[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"

pip() { "$folder/bin/python" -m pip --disable-pip-version-check -qq "$@"; }

# The CPU build, unless a torch is there: from PyTorch's own index where it can be reached, else from pip's own.
install_torch() {
    if ! "$folder/bin/python" -c 'import torch' 2>/dev/null; then
        echo "installing torch $torch_version (CPU build)"
        pip install --index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10 "torch==$torch_version" 2>/dev/null ||
            pip install "torch==$torch_version"
    fi
}
