# make demo: the first run. make test: everything CI checks. make lint: its quick part.
PYTHON ?= python3
INSTALLED := .venv/installed

.PHONY: demo test lint

demo: $(INSTALLED)
	.venv/bin/fleke compare configs/experiments/demo.toml

test:
	PYTHON=$(PYTHON) .ci/run

lint:
	PYTHON=$(PYTHON) .ci/run lint

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable .
	touch $(INSTALLED)
