#!/usr/bin/env bash
# Create a separate environment for `scripts/bench_generation.py --against openvino`, with the model exported into it:
#
#     scripts/setup_openvino.sh ENV_DIR [MODEL_DIR]
#
# OpenVINO's exporter needs older versions of our dependencies, so it is not installed into .venv.  Takes about 3 GB and
# five minutes; can be run again.  The exported model is ENV_DIR/model; another MODEL_DIR replaces it.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=${1:?usage: scripts/setup_openvino.sh ENV_DIR [MODEL_DIR]}
model=${2:-models/smollm2-135m-instruct}
python=${PYTHON:-python3}
torch_version=2.13.0

if [ ! -e "$model/config.json" ]; then
    echo "error: $model is missing" >&2
    echo "  fix: make model" >&2
    exit 1
fi
[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
pip() { "$environment/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

if ! "$environment/bin/python" -c 'import torch' 2>/dev/null; then
    pip install --index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10 "torch==$torch_version" 2>/dev/null ||
        pip install "torch==$torch_version"
fi
# torch is named again, otherwise torchvision (for images only) brings a newer one that does not fit the CPU build.
pip install "torch==$torch_version" 'openvino-genai==2026.4.*' 'optimum-intel==2.2.*'
pip uninstall --yes torchvision
# bench_generation.py compares this digest with that of its model.
digest=$(LC_ALL=C; cat "$model/config.json" "$model"/*.safetensors | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$environment/model.sha256" 2>/dev/null)" != "$digest" ]; then
    rm -rf "$environment/model" "$environment/model.sha256"
    # Half-precision files; a hint makes the pipeline compute in bfloat16.
    "$environment/bin/optimum-cli" export openvino --task text-generation-with-past --weight-format fp16 \
        --model "$model" "$environment/model"
    echo "$digest" >"$environment/model.sha256"
fi
echo "ready: scripts/bench_generation.py --against openvino --openvino $environment"
