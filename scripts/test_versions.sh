#!/usr/bin/env bash
# Run the tests that depend on the libraries with other versions of them (make test-oldest, make test-newest).
#
#     scripts/test_versions.sh oldest      the lowest versions that pyproject.toml allows
#     scripts/test_versions.sh newest      the newest releases, ignoring the upper bounds of pyproject.toml
#
# They are installed into a separate environment, .venv-oldest or .venv-newest, which is recreated each time; torch is a
# CPU build if PyTorch's index can be reached, else what the default index has (several GB with CUDA).
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1-}" in
oldest) resolution=(--resolution lowest-direct) ;;
newest) resolution=(--resolution highest --upgrade) ;;
*)
    echo "usage: $0 oldest|newest" >&2
    exit 2
    ;;
esac
venv=.venv-$1
shift

.venv/bin/uv venv --quiet --clear --python .venv/bin/python "$venv"
requirements=(--requirement pyproject.toml --extra dev)
if [ "$venv" = .venv-newest ]; then
    # Only our own bounds are removed: what other packages forbid, a user cannot install either.
    .venv/bin/python scripts/without_upper_bounds.py >"$venv/requirements.txt"
    requirements=(--requirement "$venv/requirements.txt")
fi
install() {
    .venv/bin/uv pip install --quiet --python "$venv/bin/python" "${resolution[@]}" "${requirements[@]}" "$@"
}
UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 install --torch-backend cpu 2>/dev/null || install
.venv/bin/uv pip list --quiet --python "$venv/bin/python" |
    grep -E '^(accelerate|datasets|numpy|peft|pyarrow|pydantic|scipy|torch|transformers|trl) '

run() {
    PYTHONPATH=$PWD OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -q -n 2 --dist loadfile -p no:cacheprovider "$@"
}
run tests/gpu # in separate processes; skipped if torch is not a CPU build
run tests/engines tests/policy tests/training tests/prompts tests/loop tests/config \
    tests/checks/test_doctor_hardware.py tests/cli/test_cli.py tests/cli/test_cli_decided.py "$@"
