# Everything here sets itself up: a virtual environment in .venv, the requirements, then the job.
# PYTHON chooses the interpreter for the environment (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app demo demo-train test lint browser slow docs docs-version notebook dist clean

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.develop: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	# It asks for torchvision, which only other architectures of it use; the tests have stand-ins.
	$(BIN)/python -m pip install --quiet --no-deps spandrel
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

$(VENV)/.release: $(VENV)/.develop requirements-release.txt
	$(BIN)/python -m pip install --quiet -r requirements-release.txt
	touch $@

docs: $(VENV)/.release
	$(BIN)/mkdocs build --strict

# Adds the site of this version to the branch gh-pages, beside those of earlier ones: make docs-version VERSION=0.1
docs-version: $(VENV)/.release
	$(BIN)/mike deploy --update-aliases $(VERSION) latest

notebook: $(VENV)/.release
	$(BIN)/python -m pytest -m "slow or not slow" tests/integrations/test_notebook.py

dist: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
