# napkin's chores. On a Linux machine with Python 3.11 or later, `make demo` or `make test` is all.

VENV := .venv
NAPKIN := $(VENV)/bin/napkin
INSTALLED := $(VENV)/.installed
EXAMPLE := examples/attention.napkin
FOR := --machine hopper

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format gallery wheel-smoke clean

help:
	@echo "make demo         compile $(EXAMPLE) into out/, verify it, show its cost"
	@echo "make test         run every test that needs no GPU"
	@echo "make lint         check formatting, style and types"
	@echo "make format       format the sources"
	@echo "make gallery      draw docs/gallery.md and its pictures anew"
	@echo "make wheel-smoke  compile with the wheel in an empty environment"
	@echo "make clean        remove what the others made, but for $(VENV)"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh $(VENV)
	@touch $@

demo: $(INSTALLED)
	@echo "==> compiling $(EXAMPLE) for hopper"
	@$(NAPKIN) compile $(EXAMPLE) $(FOR) -o out
	@echo "==> verifying the kernel on the CPU"
	@$(NAPKIN) verify $(EXAMPLE) $(FOR)
	@echo "==> its cost"
	@$(NAPKIN) cost $(EXAMPLE) $(FOR)
	@echo "==> files"
	@ls -1 out/*

test: $(INSTALLED)
	@$(VENV)/bin/python -m pytest -n auto

lint: $(INSTALLED)
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

format: $(INSTALLED)
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

gallery: $(INSTALLED)
	@$(VENV)/bin/python scripts/gallery.py

wheel-smoke: $(INSTALLED)
	@scripts/wheel_smoke.sh $(VENV)

clean:
	@rm -rf out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .triton-cache
