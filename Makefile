# Needs Python 3.11+, make and, for the browser tests, apt or an installed Chromium.
PYTHON ?= python3
BIN := .venv/bin
# TORCH=torch accepts a build of torch that is not in the lock, such as that for CPUs of another version of Python.
TORCH ?= -r requirements-torch.lock
RUNS ?= runs
PORT ?= 8765
WORKERS ?= 3
TRAIN := $(BIN)/workbench train
DEMO_TRAIN := WORKBENCH_FEATURE_EXTRACTOR=hog OMP_NUM_THREADS=1 $(TRAIN)
PIP := $(BIN)/pip install -q --disable-pip-version-check
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

.PHONY: demo demo-softvq-4 demo-softvq-16 demo-vqvae-16 readme-picture test test-fast wording golden lint style types docstrings format lab dashboard docs bench soak claims claims-full lock audit clean browser notebooks

demo: .venv/demo  ## train on bundled photographs, write report.html, print the next steps
	$(MAKE) --no-print-directory -j3 demo-softvq-4 demo-softvq-16 demo-vqvae-16
	@echo
	@echo "Dashboard:   make dashboard   then open the link that it prints"
	@echo "JupyterLab:  make lab         opens the first notebook"
	@echo "Report:"
	@$(BIN)/workbench report comparison --run $(RUNS)/softvq-16 --out report.html \
	  --compare-with $(RUNS)/softvq-4,$(RUNS)/vqvae-16

# A tokenizer and a small generator on it. One thread per process is faster here than several.
demo-softvq-4:
	$(DEMO_TRAIN) softvq-photos --num-tokens 4 --steps 300 --out $(RUNS)/softvq-4
	$(DEMO_TRAIN) sit-photos --tokenizer $(RUNS)/softvq-4 --steps 300 --out $(RUNS)/sit-softvq-4

demo-softvq-16:
	$(DEMO_TRAIN) softvq-photos --num-tokens 16 --steps 300 --out $(RUNS)/softvq-16
	$(DEMO_TRAIN) sit-photos --tokenizer $(RUNS)/softvq-16 --steps 300 --out $(RUNS)/sit-softvq-16

demo-vqvae-16:
	$(DEMO_TRAIN) vqvae-photos --num-tokens 16 --steps 300 --out $(RUNS)/vqvae-16
	$(DEMO_TRAIN) sit-photos --tokenizer $(RUNS)/vqvae-16 --steps 300 --out $(RUNS)/sit-vqvae-16

readme-picture: .venv/dev browser  ## take the picture of the README from the runs of the demo
	$(BIN)/python -m benchmarks.readme_picture $(RUNS) docs/_static/dashboard.png

test: .venv/dev browser  ## run every test, also in a real browser
	$(PYTEST)

# These tests never wait: more workers than cores would only import more.
test-fast: WORKERS = 2
test-fast: .venv/dev  ## run the tests that need neither a browser, nor a kernel, nor long training
	$(PYTEST) -m "not slow and not browser and not kernel"

notebooks: .venv/dev browser  ## execute the notebooks and store their outputs in them, as still pictures
	$(BIN)/python -m benchmarks.notebook_outputs

wording: .venv/dev  ## update the snapshot of user-visible sentences after a change of wording
	$(BIN)/python -m pytest -q tests/test_wording.py --snapshot-update

golden: .venv/dev  ## rewrite the golden training curves after an intended change
	OMP_NUM_THREADS=1 WRITE_GOLDEN=1 $(BIN)/python -m pytest tests/test_golden.py

lint: style types docstrings  ## style, spelling, types and docstrings

# In parts, which `make --jobs` runs side by side.
style: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: .venv/dev
	$(BIN)/mypy

docstrings: .venv/dev
	$(BIN)/numpydoc lint $$(git ls-files 'workbench/*.py')

format: .venv/dev  ## format the code in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lab: .venv/demo  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/0_first_run.ipynb

dashboard: .venv/demo  ## open the dashboard on runs/
	$(BIN)/workbench dashboard $(RUNS) --port $(PORT)

docs: .venv/dev  ## build the documentation site into docs/_build/html, without network
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: .venv/dev  ## measure training speed, and compare with public implementations
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.side_by_side --out side_by_side.json

soak: .venv/dev  ## kill every command at random moments, MINUTES long; the figures are in docs/concepts/faults.md
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),60) --sessions $(or $(SESSIONS),200)

claims: .venv/demo  ## test the papers' claims at laptop size (CIFAR10=FOLDER, otherwise bundled images)
	for scale in $(if $(CIFAR10),laptop,photos digits); do \
	  $(BIN)/python -m benchmarks.claims $$scale || exit 1; done

claims-full: .venv/demo  ## the same at full width, on a GPU (CIFAR10=FOLDER)
	$(BIN)/python -m benchmarks.claims gpu --workers 8

lock: .venv/demo  ## write the locks after a change of pyproject.toml (needs the package index)
	$(PIP) uv
	PATH="$(BIN):$$PATH" .ci/lock

# SERVICE=osv queries OSV instead of PyPI. ADVISORIES=FOLDER needs no network: a copy of pypa/advisory-database.
audit:  ## compare the locked versions with known advisories (needs the advisory service of PyPI, or ADVISORIES=FOLDER)
ifdef ADVISORIES
	$(MAKE) --no-print-directory .venv/dev
	$(BIN)/python .ci/audit.py $(ADVISORIES)
else
	$(PYTHON) -m venv .audit
	.audit/bin/pip install -q --disable-pip-version-check pip-audit
	.audit/bin/pip-audit --strict --disable-pip --no-deps --vulnerability-service $(or $(SERVICE),pypi) \
	  -r requirements-dev.lock -r requirements-torch.lock -r requirements-cuda.lock
endif

clean:  ## remove everything that can be made again, except the runs
	rm -rf .venv .audit build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache report.*
	find . -name __pycache__ -prune -exec rm -rf {} +

browser:
	@for name in chromium-headless-shell chromium chromium-browser google-chrome; do \
	  command -v $$name >/dev/null && exit 0; done; \
	  SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); $$SUDO apt-get update -q && \
	  { $$SUDO apt-get install -qy chromium-headless-shell || $$SUDO apt-get install -qy chromium; }

# Packages are compared with the hashes in the locks. torch is downloaded first, because pip would prefer a build with a
# known hash to that of a local index. Only the build for CUDA needs requirements-cuda.lock.
IS_CUDA := import sys; from importlib.metadata import requires; sys.exit("nvidia" not in str(requires("torch")))

.venv/demo: pyproject.toml requirements.lock requirements-torch.lock requirements-cuda.lock
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip download -q --disable-pip-version-check --no-deps -d .venv/torch $$(grep -o '^torch==[^ ]*' requirements-torch.lock)
	$(PIP) --no-index --find-links .venv/torch --no-deps $(TORCH)
	rm -r .venv/torch
	if $(BIN)/python -c '$(IS_CUDA)'; then $(PIP) --require-hashes --no-deps -r requirements-cuda.lock; fi
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/demo requirements-dev.lock
	$(PIP) --require-hashes --no-deps -r requirements-dev.lock
	@touch $@
