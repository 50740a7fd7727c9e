# Two commands on a fresh machine: `make demo` shows the whole road on drawn videos, `make test` passes the tests.
# Both first make .venv in this folder; that takes a few minutes once and nothing afterwards.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help
.PHONY: help setup demo test unit proofs lint types bench chaos bench-gpu bench-torchvision clean

SIZE ?= full
PIP := .venv/bin/python -m pip install --disable-pip-version-check --constraint infra/constraints.txt
PINS := pyproject.toml infra/constraints.txt
HOW_FAR := awk '/^Collecting/ && ++found % 20 == 0 {print "    " found " packages found"; fflush()} \
    /^Installing collected/ {print "    installing " NF - 3 " packages"; fflush()}'

help:
	@echo 'make demo   draw a world, train RGNN on it, segment an archive, score it, report (10 minutes on 2 cores)'
	@echo 'make demo SIZE=tiny   the same road in 2 minutes; the numbers mean nothing'
	@echo 'make test   all tests          make unit   the fast ones'
	@echo 'make lint   ruff               make types  mypy'
	@echo 'make proofs slow proofs of what the tests show in small (an hour)'
	@echo 'make chaos  runs that are killed at any of their steps, 300 times (ten minutes)'
	@echo 'make bench  speed and memory, after make demo (a quarter of an hour)'
	@echo 'make bench-torchvision   Mask R-CNN beside torchvision (five minutes)'
	@echo 'make bench-gpu   training and inference on a GPU (five minutes)'
	@echo 'make setup  .venv and vis only make clean  remove .venv and caches, keep .vis'

# ---- set-up ----------------------------------------------------------------------------------------------------

# The first interpreter that runs, has the right version and can make a virtual environment.
SUITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
.venv/bin/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if $$python -c '$(SUITS)' 2>/dev/null; then \
	        echo "set-up 1/3: .venv from $$($$python --version)"; \
	        exec $$python -m venv --clear .venv; \
	    fi; \
	done; \
	echo 'vislake needs Python 3.11, 3.12 or 3.13 with venv, and found none. On Debian or Ubuntu:' >&2; \
	echo '    sudo apt-get install python3 python3-venv     then the same command again.' >&2; \
	echo 'A Python that is not on the PATH is taken with: make PYTHON=/path/to/python3.12 ...' >&2; \
	exit 1

# An NVIDIA GPU decides which build of torch. CPU builds lie on some indexes and on PyTorch's own; where neither is in
# reach the CUDA build is taken, which runs on a CPU as well and is larger by gigabytes.
CPU_INDEX := https://download.pytorch.org/whl/cpu
.venv/torch.stamp: .venv/bin/python $(PINS)
	@if nvidia-smi --list-gpus >/dev/null 2>&1; then \
	    echo 'set-up 2/3: torch 2.13.0 with CUDA (nvidia-smi lists a GPU)'; \
	    $(PIP) torch==2.13.0 | $(HOW_FAR); \
	else \
	    echo 'set-up 2/3: torch 2.13.0, CPU build (no NVIDIA GPU found)'; \
	    $(PIP) torch==2.13.0+cpu 2>.venv/torch.log | $(HOW_FAR) \
	    || $(PIP) torch==2.13.0+cpu --extra-index-url $(CPU_INDEX) 2>>.venv/torch.log | $(HOW_FAR) \
	    || { echo "    no CPU build in reach of pip (.venv/torch.log), taking the CUDA build"; \
	         $(PIP) torch==2.13.0 | $(HOW_FAR); }; \
	fi
	@touch $@

.venv/setup.stamp: .venv/torch.stamp
	@echo 'set-up 3/3: vislake and what it needs, about 130 packages'
	@$(PIP) --editable . | $(HOW_FAR)
	@touch $@

.venv/test.stamp: .venv/torch.stamp
	@echo 'set-up 3/3: vislake, what it needs and the test tools, about 180 packages'
	@$(PIP) --editable '.[dev]' | $(HOW_FAR)
	@touch .venv/setup.stamp $@

setup: .venv/setup.stamp

# ---- the road --------------------------------------------------------------------------------------------------

VIS := .venv/bin/vis
RECIPE.full := rgnn_r18_world_demo
RECIPE.tiny := rgnn_r18_world_tiny
FILMS.full := 12
FILMS.tiny := 2

$(if $(RECIPE.$(SIZE)),,$(error SIZE=$(SIZE), expected full or tiny))

demo: .venv/setup.stamp
	$(VIS) train --recipe $(RECIPE.$(SIZE))
	$(VIS) world .vis/films-$(SIZE) --archive $(FILMS.$(SIZE))
	$(VIS) segment .vis/films-$(SIZE) --overlay
	$(VIS) evaluate
	$(VIS) report
	@echo 'and now, for example:'
	@echo '    $(VIS) query objects-per-class'
	@echo '    $(VIS) query "SELECT video_id, track_id, category, n_obs, score FROM tracks ORDER BY score DESC LIMIT 10"'
	@echo '    $(VIS) query area-over-time --format csv --output area.csv'

# ---- checks ----------------------------------------------------------------------------------------------------

# Two tests side by side, each with one thread: most of their time is that of servers and engines that start.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2

test: .venv/test.stamp
	$(SIDE_BY_SIDE)

unit: .venv/test.stamp
	$(SIDE_BY_SIDE) -m unit

lint: .venv/test.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# Slow proofs, each of which has a small twin in the tests: hundreds of processes, thousands of damaged files, kills.
proofs: .venv/test.stamp
	.venv/bin/python -m pytest $(filter-out %/__init__.py,$(wildcard tests/proofs/*.py))

chaos: .venv/test.stamp
	VIS_CHAOS_STORIES=300 .venv/bin/python -m pytest --numprocesses 2 tests/jobs/test_chaos.py

bench: .venv/test.stamp
	.venv/bin/python -m tests.bench
	.venv/bin/python -m tests.bench_lake
	.venv/bin/python -m tests.bench_idol

# torchvision needs the CUDA build of torch, which runs on a CPU as well: an environment beside ours.
TORCHVISION := .venv/torchvision
$(TORCHVISION)/stamp: $(PINS) | .venv/bin/python
	.venv/bin/python -m venv --clear $(TORCHVISION)
	$(TORCHVISION)/bin/pip install --disable-pip-version-check --quiet --constraint infra/constraints.txt \
	    torch===2.13.0 torchvision===0.28.0 numpy pydantic jaxtyping pillow pycocotools safetensors
	@touch $@

bench-torchvision: $(TORCHVISION)/stamp
	$(TORCHVISION)/bin/python -m tests.bench_torchvision

bench-gpu: .venv/test.stamp
	.venv/bin/python -m tests.bench_gpu

types: .venv/test.stamp
	.venv/bin/mypy

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find flows jobs vis_models tests -name __pycache__ -type d -prune -exec rm -rf {} +
