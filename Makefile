# Needs Python 3.11+, make, and for the browser tests apt or an installed Chromium.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs
PORT ?= 8765
TRAIN := $(BIN)/workbench train

.PHONY: demo test golden lab dashboard lint clean browser bench claims claims-full

demo: .venv/demo  ## train on bundled images, write report.html, say how to look further
	$(TRAIN) softvq-digits --tokens 2 --out $(RUNS)/softvq-digits-2
	$(TRAIN) softvq-digits --tokens 4 --out $(RUNS)/softvq-digits-4
	$(TRAIN) softvq-digits --tokens 8 --out $(RUNS)/softvq-digits-8
	$(TRAIN) vqvae-digits --tokens 8 --out $(RUNS)/vqvae-digits-8
	$(TRAIN) softvq-photos --out $(RUNS)/softvq-photos
	$(TRAIN) sit-digits --tokenizer $(RUNS)/softvq-digits-8 --out $(RUNS)/sit-digits
	@echo
	@echo "The dashboard:  make dashboard      then open http://127.0.0.1:$(PORT)"
	@echo "JupyterLab:     make lab            then open 0_first_run.ipynb"
	@echo "The report:"
	@$(BIN)/workbench report tokenizer --run $(RUNS)/softvq-digits-8 --out report.html \
	  --others $(RUNS)/softvq-digits-2,$(RUNS)/softvq-digits-4,$(RUNS)/vqvae-digits-8,$(RUNS)/sit-digits

test: .venv/dev browser  ## every test, in a real browser too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lab: .venv/demo  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --ServerApp.root_dir=notebooks

dashboard: .venv/demo  ## the dashboard over runs/
	$(BIN)/workbench dashboard $(RUNS) --port $(PORT)

lint: .venv/dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

golden: .venv/dev  ## write the first twenty steps of every system anew, where a change is meant
	OMP_NUM_THREADS=1 WRITE_GOLDEN=1 $(BIN)/python -m pytest tests/test_golden.py

bench: .venv/demo  ## training speed beside this machine's matmul rate; and what others compute too, beside them
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.side_by_side --out side_by_side.json

claims: .venv/demo  ## the papers' claims at a laptop's size; CIFAR10=FOLDER, else the bundled images; resumable
	for scale in $(if $(CIFAR10),laptop,photos digits); do \
	  $(BIN)/python -m benchmarks.claims $$scale --readme README.md || exit 1; done

claims-full: .venv/demo  ## the same at full width, sized for an hour on a GPU; CIFAR10=FOLDER
	$(BIN)/python -m benchmarks.claims gpu --workers 8 --readme README.md

clean:  ## everything that can be made again, but not the runs
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache report.*
	find . -name __pycache__ -prune -exec rm -rf {} +

browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); $$SUDO apt-get update -q && $$SUDO apt-get install -qy chromium; }

# Versions are those of the lock; torch first, so that no other package brings a second build of it.
.venv/demo: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock torch
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock -e '.[all]'
	@touch $@

.venv/dev: .venv/demo
	$(BIN)/pip install -q --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@
