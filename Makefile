# `make` alone lists the targets. What they install or build lies in .venv/ and _build/, which git ignores.
PYTHON ?= python3
BIN := .venv/bin
ON_GPU = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
# What `make setup` takes instead of the locked torch and torchvision, which on Linux bring CUDA: requirements and
# options of pip, or `installed`, those of $(PYTHON). It is asked once, when .venv is made, and kept in .venv/ready.
TORCH ?= $(shell cat .venv/ready 2>/dev/null)

# The address of the repository, as https://github.com/OWNER/NAME: with it pages get launch buttons and live code.
REPOSITORY ?=
export WIRING_REPOSITORY := $(REPOSITORY)
ifneq ($(filter-out https://%,$(REPOSITORY)),)
$(error REPOSITORY = '$(REPOSITORY)': allowed: https://github.com/OWNER/NAME)
endif

# Jupyter Book exits 0 whatever went wrong unless -W makes warnings errors; --keep-going still shows all of them. Sphinx
# does not repeat the warnings of a page that it takes to be up to date, so what a failed build left goes first.
build_html = test -f _build/built || rm -rf _build/html _build/.doctrees; rm -f _build/built; \
	$(BIN)/jupyter-book build $(1) --config _config.yml --path-output . -q -W -n --keep-going && touch _build/built

.DEFAULT_GOAL := help
.PHONY: help setup test lint format book html outputs explorer logo bench cuda lock clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

# Without it pip compiles every module of every package, for a minute; Python does it for those that are imported.
install = $(BIN)/python -m pip install --no-compile

# What keeps $(PYTHON) from making the environment, in one line; nothing when all is well.
python_problem = $(shell \
	if ! command -v '$(PYTHON)' >/dev/null; then echo "'$(PYTHON)' was not found"; \
	elif ! '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then echo "'$(PYTHON)' is older"; \
	elif ! '$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null; then echo "'$(PYTHON)' lacks venv or ensurepip"; fi)

setup: .venv/ready ## make .venv: requirements.lock and this package; TORCH='torch torchvision --index-url URL' or installed

.venv/ready: requirements.lock pyproject.toml
	$(if $(python_problem),$(error wiring needs Python 3.11 or newer with venv: $(python_problem); name another with `make setup PYTHON=...`))
	$(PYTHON) -m venv $(if $(filter installed,$(TORCH)),--system-site-packages ).venv
	$(if $(filter-out installed,$(TORCH)),$(install) $(TORCH))
	$(if $(TORCH),$(BIN)/python -c 'import torchvision')
	$(if $(TORCH),grep -v '^torch\(vision\)*==' requirements.lock | )$(install) -r $(if $(TORCH),/dev/stdin,requirements.lock)
	$(install) -q --no-deps -e .
	@echo '$(TORCH)' > $@

# In these tests shapes and types are checked at every call, which makes them two to four times as slow as the others.
CHECKED := $(addprefix tests/,supernet costs/test_gate_probe.py costs/test_exact.py search/test_searchers.py \
	search/test_drift.py search/test_discrete.py evidence/test_measured.py test_datasets.py)
# Searches in a notebook start one worker of their own and not one a core, since other tests run on the other cores.
all_tests = OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 $(BIN)/pytest -n logical -m ""

test: lint ## lint, then run all tests, the long ones too, and every notebook, whose outputs must come out the same
	$(all_tests) --dist worksteal --jaxtyping-packages=wiring,beartype.beartype $(CHECKED)
	$(all_tests) --nbval --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(CHECKED))

lint: setup ## check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy --num-workers auto

format: setup ## rewrite the code and the notebooks' code cells in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

book: setup ## execute every chapter afresh (in _build/fresh), then build the book from that
	PYTHONPATH=book/extension $(BIN)/python -m wiring_book.build --out _build/fresh
	$(call build_html,_build/fresh)

html: setup ## build the book from the notebooks as committed, in seconds; REPOSITORY=... makes it live
	$(call build_html,book)

outputs: setup ## execute every chapter and write the outputs back into book/
	PYTHONPATH=book/extension $(BIN)/python -m wiring_book.build --out book

explorer: setup ## measure the cost explorer's costs anew, into data/explorer.npz
	PYTHONPATH=book/extension $(BIN)/python -m wiring_book.explorer

logo: setup ## draw the book's logo and its card for links, into book/_static
	PYTHONPATH=book/extension $(BIN)/python -m wiring_book.logo

bench: setup ## measure speed and memory on this machine, 6 minutes, and write them into data/bench.json and the README
	rm -f _build/bench.json && mkdir -p _build
	$(BIN)/wiring bench --json _build/bench.json; status=$$?; test -f _build/bench.json || exit $$status; \
	mv _build/bench.json data/bench.json && PYTHONPATH=book/extension $(BIN)/python -m wiring_book.bench_table && exit $$status

# Beside a torch that is there already nothing is installed: with PYTHON=python3 what this package imports must be there.
cuda: ## on a GPU: its tests, its bench, then p1-paper and p3-paper, resumable, into runs/cuda
	mkdir -p runs/cuda
	$(ON_GPU) -m pytest -q -m cuda -o addopts= tests/test_cuda.py
	-$(ON_GPU) -m wiring bench --device cuda --json runs/cuda/bench-$$(date +%F-%H%M).json
	for name in p1-paper p3-paper; do $(ON_GPU) -m wiring run $$name --out runs/cuda/$$name || exit; done

lock: ## resolve pyproject.toml anew in an empty environment and rewrite requirements.lock
	rm -rf _build/lock
	$(PYTHON) -m venv _build/lock
	_build/lock/bin/python -m pip install -e '.[book,test]'
	{ grep '^#' requirements.lock; _build/lock/bin/python -m pip freeze --exclude-editable \
		--exclude pip --exclude setuptools --exclude wheel | grep -vE '^(nvidia|cuda|triton)'; } > _build/lock/new
	mv _build/lock/new requirements.lock
	rm -rf _build/lock

clean: ## remove all that is built; .venv stays
	rm -rf _build .*_cache .hypothesis *.egg-info
