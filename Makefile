# The ways into this repository. Each target first makes .venv and builds the C extension, if need be.
#
#   PYTHON=python3.12   the interpreter to make .venv with (3.10 or later)
#   TORCH=2.13.0        the release of torch to put into .venv
#   PIP_ARGS=...        arguments for pip when it installs torch, e.g. an index of CPU builds
#   VENV=none           use the virtual environment that is active, with its torch as it is
#   ARGS=...            arguments for pytest, the demo or the benchmarks
#
# These are said on make's command line: variables of the environment with such names are somebody else's, and so are
# those by which cd and pip would work in another folder.
unexport CDPATH PIP_PREFIX PIP_ROOT PIP_TARGET PIP_USER
PYTHON := python3
TORCH := 2.13.0
PIP_ARGS :=
VENV := .venv
ARGS :=

python = $(if $(filter none,$(VENV)),python,"$(VENV)/bin/python")
setup := tools/setup_venv.sh
settings = 'PYTHON=$(PYTHON)' 'TORCH=$(TORCH)' 'PIP_ARGS=$(PIP_ARGS)' 'VENV=$(VENV)'
test_folders := $(wildcard tests/unit tests/overlay tests/native tests/emu tests/cuda tests/robustness tests/distributed)
parallel := -q -n auto --maxprocesses 8 --dist worksteal -m "not long and not slow"

.PHONY: help build demo test verify torches all-checks fuzz lint analysis evidence debian bench clients gpu nvcc wheel clean

help: ## these lines
	@sed -n '2,9s/^# \{0,1\}//p' Makefile
	@sed -n 's/^\([a-z-]*\): ## /  make \1\t/p' Makefile | expand -t 20

demo: ## the main job: trains a small detector and shows what the package does for it
	@$(setup) demo $(settings)
	@$(if $(findstring --output,$(ARGS)),:,bash -c '. tools/marker.sh; claim demo_output')
	$(python) -m yolov5_utils demo $(ARGS)

test: ## unit tests, overlay tests, the C core's own tests, the CUDA kernels on an emulated GPU
	@$(setup) test $(settings)
	@echo 'make test: the tests but for the slow ones, which continuous integration runs, on all cores: about four minutes on two'
	@$(python) -m pytest $(parallel) $(test_folders) $(ARGS) && \
	  echo 'make test: passed' || { echo 'make test: FAILED, as said above' >&2; exit 1; }

verify: ## the unit tests again, with every hot call checked against the original's operations
	@$(setup) test $(settings)
	YOLOV5_UTILS_VERIFY=1 $(python) -m pytest $(parallel) tests/unit $(ARGS)

build: ## only makes .venv and the C extension, ready for the tests
	@$(setup) test $(settings)

clients: ## trains and detects with the real YOLOv5, stock and through this package
	@$(setup) test $(settings)
	CLIENTS_PIP_ARGS='$(PIP_ARGS)' $(python) -m pytest tests/clients $(ARGS)

debian: ## the unit tests on Debian's own torch, through capsules and without a thread pool
	@tools/test_debian.sh $(ARGS)

torches: ## the smoke tests on every release of torch from 1.13 on: hours, and GB of downloads for each (ARGS="2.4.1" for one)
	@$(setup) base $(settings)
	@tools/test_torch.sh 'PYTHON=$(PYTHON)' 'PIP_ARGS=$(PIP_ARGS)' $(or $(ARGS),all)

all-checks: ## everything that continuous integration checks in a week, at once: over an hour on two cores
	@.ci/run all

# In an environment of its own, several GB large: on the torch that pip installs for most, built for CUDA.
bench: TORCH := 2.14.1
bench: VENV := .venv-bench
bench: ## speed against the original and the best peer, into docs/ (tables, JSON, pictures) and README.md
	@$(setup) bench $(settings)
	CLIENTS_PIP_ARGS='$(PIP_ARGS)' $(python) -m benchmarks --docs docs --readme README.md $(ARGS)

fuzz: ## inputs that libFuzzer makes for the C code, ten seconds a target (ARGS="--seconds 600 prune")
	@$(setup) test $(settings)
	$(python) -m tests.fuzz $(ARGS)

lint: ## formatting, static checks, and warning-free builds with gcc and clang
	@$(setup) lint $(settings)
	@tools/lint.sh $(python)

gpu: ## checks and measures everything on this machine's NVIDIA GPU in ten minutes; without one, on an emulated one
	@$(setup) test $(settings)
	@! command -v nvidia-smi >/dev/null || command -v nvcc >/dev/null || $(setup) nvcc $(settings)
	$(python) -m tools.gpu_check $(ARGS)

analysis: ## the static analysers that take minutes
	@$(setup) lint $(settings)
	@tools/analysis.sh $(python)

evidence: ## measures again what docs/reliability.md tells, hours of it (ARGS=NAME: one row)
	@$(setup) test $(settings)
	$(python) tools/evidence.py $(ARGS)

nvcc: ## puts the CUDA compiler into .venv, for machines without a toolkit
	@$(setup) nvcc $(settings)

wheel: ## builds, checks and tests what a release uploads, into dist/
	@$(setup) nvcc $(settings)
	@$(setup) wheel $(settings)
	@tools/wheel.sh $(settings)

clean: ## removes everything that the other targets made
	@tools/clean.sh '$(VENV)'
