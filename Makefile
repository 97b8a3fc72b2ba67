# make run   the default workflow, from nothing to results/peptides/report.html
# make test  the whole test suite        make lint   style, types, layers, rules
# make bench speeds beside baselines     make clean  remove .venv (results stay)
# make lock  resolve requirements.in anew into requirements.lock
#
# Variables: CORES=4 (default: all), CONFIG=configs/my-trajectories.yaml, PYTHON=python3.12, PYTEST="-k score"

PYTHON ?= python3
CORES ?= all
CONFIG ?=
PYTEST ?=

VENV := $(CURDIR)/.venv
INSTALLED := $(VENV)/.installed
export PATH := $(VENV)/bin:$(PATH)
# A user's own site-packages or PYTHONHOME must not leak into the environment.
export PYTHONNOUSERSITE := 1
unexport PYTHONHOME
# Snakemake and matplotlib keep caches; a home that is not there or not writable must not matter.
export XDG_CACHE_HOME ?= $(VENV)/cache
export MPLCONFIGDIR ?= $(VENV)/cache/matplotlib

.PHONY: run test lint bench clean lock install

run: $(INSTALLED)
	python workflow/recover.py $(if $(CONFIG),--configfile $(CONFIG))
	snakemake --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG))

test: $(INSTALLED)
	python -m pytest $(PYTEST)

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	pyright
	lint-imports
	snakemake --lint

bench: $(INSTALLED)
	python benchmarks/bench.py
	python benchmarks/alignment.py
	python benchmarks/qm9.py

install: $(INSTALLED)

# The stamp is written last: an installation that was cut short is done again, a finished one never.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("ancdiff needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(INSTALLED)
	pip-compile --quiet --no-header --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --no-emit-options --output-file .lock.tmp requirements.in
	{ echo "# Every package of the environment, pinned. Made from requirements.in by \`make lock\`; do not edit by hand."; \
	  sed -e 's/+cpu//' .lock.tmp; } > requirements.lock
	rm -f .lock.tmp

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
