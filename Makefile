# make demo   train the digits example to completion
# make test   the whole test suite
# make ui-test look at MLflow's pages with Debian's chromium; pictures in build/screenshots
# make lint   ruff and mypy
# make chaos  train, stopped in every way at every moment, and compared bit for bit: docs/chaos.md
#             ROUNDS=10 by default; SEED=… for the same rounds again, ONLY=… for one of them
# make clean  remove what these made; runs (output/, mlflow.db) stay
#
# Each sets up .venv first. On Linux PyPI's torch is the CUDA build; for the smaller CPU build:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

ROUNDS ?= 10

.PHONY: demo test ui-test lint chaos clean

demo: $(INSTALLED)
	$(BIN)/python examples/digits/train.py
	@echo
	@echo "The run's files are in output/: run.yaml, journal.jsonl, checkpoints/ and model/."
	@echo "  $(BIN)/igniter runs    lists the runs here"
	@echo "  $(BIN)/igniter ui      opens MLflow's pages on mlflow.db in a browser"
	@echo "Next time, stop it with Ctrl-C or kill -9 half-way; the same command goes on from there:"
	@echo "  $(BIN)/python examples/digits/train.py --dropout 0.2"

test: $(INSTALLED)
	$(BIN)/pytest -n auto --dist worksteal

ui-test: $(INSTALLED)
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[ui]'
	SCREENSHOTS=build/screenshots $(BIN)/pytest tests/test_ui.py

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

chaos: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python -m chaos --rounds $(ROUNDS) \
		$(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find cli configs examples igniter tests -name __pycache__ -prune -exec rm -rf {} +

# The build's own tools come first, from the pinned list, so that nothing is fetched unpinned for
# an isolated build, and a repeated set-up needs no network.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt setuptools torch
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[test,dev,examples]'
	touch $@
