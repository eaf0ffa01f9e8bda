# Everything here sets itself up: a virtual environment in .venv, the requirements, then the job.
# PYTHON chooses the interpreter for the environment (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app demo demo-train test lint browser slow clean

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.develop: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/.app: $(VENV)/.runtime pyproject.toml
	$(BIN)/python -m pip install --quiet "starlette>=0.40" "uvicorn>=0.30"
	touch $@

app: $(VENV)/.app
	$(BIN)/python codes/app.py $(APP)

demo: $(VENV)/.runtime
	$(BIN)/python codes/scripts/demo.py

demo-train: $(VENV)/.runtime
	$(BIN)/python codes/scripts/demo.py --train

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.develop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

browser: $(VENV)/.develop
	$(BIN)/python -m pytest -m browser

slow: $(VENV)/.develop
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
