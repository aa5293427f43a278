# The ways into this repository. Each target first makes .venv and builds the C extension, if need be.
#
#   PYTHON=python3.12   the interpreter to make .venv with (3.10 or later)
#   TORCH=2.13.0        the release of torch to put into .venv
#   PIP_ARGS=...        arguments for pip when it installs torch, e.g. an index of CPU builds
#   VENV=none           use the virtual environment that is active, with its torch as it is
#   ARGS=...            arguments for pytest, the demo or the benchmarks
PYTHON ?= python3
TORCH ?= 2.13.0
PIP_ARGS ?=
VENV ?= .venv
ARGS ?=
export PYTHON TORCH PIP_ARGS VENV

python := $(if $(filter none,$(VENV)),python,"$(VENV)/bin/python")
test_folders := $(wildcard tests/unit tests/overlay tests/native tests/emu tests/cuda tests/robustness)

.PHONY: help build demo test verify lint debian bench clients clean

help: ## these lines
	@sed -n '2,8s/^# \{0,1\}//p' Makefile
	@sed -n 's/^\([a-z]*\): ## /  make \1\t/p' Makefile

demo: ## the main job: trains a small detector and shows what the package does for it
	@tools/setup_venv.sh demo
	$(python) -m yolov5_utils demo $(ARGS)

test: ## unit tests, overlay tests, the C core's own tests, the CUDA kernels on an emulated GPU
	@tools/setup_venv.sh test
	$(python) -m pytest $(test_folders) $(ARGS)

verify: ## the unit tests again, with every hot call checked against the original's operations
	@tools/setup_venv.sh test
	YOLOV5_UTILS_VERIFY=1 $(python) -m pytest tests/unit $(ARGS)

build: ## only makes .venv and the C extension, ready for the tests
	@tools/setup_venv.sh test

clients: ## trains and detects with the real YOLOv5, stock and through this package
	@tools/setup_venv.sh test
	$(python) -m pytest tests/clients $(ARGS)

debian: ## the unit tests on Debian's own torch, through capsules and without a thread pool
	@tools/test_debian.sh $(ARGS)

bench: ## speed against the original and the best peer, into docs/ (tables, JSON, pictures) and README.md
	@tools/setup_venv.sh bench
	$(python) -m benchmarks --docs docs --readme README.md $(ARGS)

lint: ## formatting, static checks, and warning-free builds with gcc and clang
	@tools/setup_venv.sh lint
	PYTHON=$(python) tools/lint.sh

clean: ## removes everything that the other targets made
	rm -rf build dist demo_output *.egg-info yolov5_utils/_C.*so yolov5_utils/libyolov5_utils_cuda.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
	$(if $(filter none,$(VENV)),,rm -rf "$(VENV)" .venv-clients)
