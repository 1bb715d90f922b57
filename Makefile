# make lab    JupyterLab on the workbench         make test   everything that must hold
# make bench  timings, side by side               make soak   what takes long
# It needs Python >= 3.11, a C++ compiler and make; the rest goes into .venv.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := $(shell find cpp -type f)

.PHONY: lab test lint unit browser notebooks cpp-test sanitize bench soak clean

lab: $(VENV)/.installed
	$(BIN)/python -m atheria_lab.cli lab

test: lint cpp-test unit browser notebooks

lint: $(VENV)/.installed
	$(BIN)/ruff check atheria_lab tests
	$(BIN)/ruff format --check atheria_lab tests
	$(BIN)/mypy

unit: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest tests -n 2 --ignore tests/browser

# JupyterLab in a headless Chromium; without one it skips, save where CI is set.
browser: $(VENV)/.installed
	$(BIN)/pytest tests/browser

notebooks: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --nbval notebooks -n 2 --dist loadfile

cpp-test: $(VENV)/.installed
	$(BIN)/cmake -S cpp -B build/cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DATHERIA_TESTS=ON
	$(BIN)/cmake --build build/cpp
	$(BIN)/ctest --test-dir build/cpp --output-on-failure

# The C++ tests, and a fuzz of the binding, under the address, undefined behaviour, leak and
# thread sanitizers. Not part of `make test`: it takes about four minutes of two cores.
sanitize: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" sh cpp/tests/sanitize.sh

bench: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_rollout.py
	$(BIN)/python tests/benchmarks/bench_native.py
	$(BIN)/python tests/benchmarks/bench_fused.py
	$(BIN)/python tests/benchmarks/bench_snapshots.py
	$(BIN)/python tests/benchmarks/bench_monitor.py
	$(BIN)/python tests/benchmarks/bench_scale.py
	$(BIN)/python tests/benchmarks/bench_view.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_sweep.py

soak: $(VENV)/.installed
	$(BIN)/python tests/soak/soak_long_rollout.py
	$(BIN)/python tests/soak/soak_kills.py
	$(BIN)/python tests/soak/soak_sweep_kills.py
	$(BIN)/python tests/soak/soak_fused.py
	$(BIN)/python tests/soak/soak_flat.py
	$(BIN)/python tests/soak/soak_browser.py
	ATHERIA_SOAK=1 $(BIN)/pytest tests/browser/test_notebooks_in_browser.py

# torch comes first and pinned: an open range would fetch a build with CUDA.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build
