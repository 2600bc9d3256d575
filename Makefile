# People and CI call the same few commands. Each does its own set-up, once: Python 3.11, git and make are all it takes.
# ON=3.13 runs any of them on that Python, in an environment of its own.

VENV := $(if $(ON),.cache/python$(ON),.venv)
PY := $(VENV)/bin/python
# The stamp carries the folder's name, so that a moved or copied folder sets itself up again.
READY := $(VENV)/.ready-$(shell pwd | cksum | cut -d' ' -f1)
UV := .cache/lock/bin/uv
PROVIDER ?= embedded

# A user's pip settings choose the index, proxy and certificates; these would send the packages elsewhere.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIRE_HASHES PIP_REQUIRE_VIRTUALENV
unexport PYTHONHOME PYTHONPATH
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo test test-newest test-lowest check format docs docs-serve record soak lock build clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## run the three tasks on a real tool; free, unless LIVE=1 allows a paid model
	@$(VENV)/bin/testronaut-llm demo $(if $(LIVE),--live)

test: $(READY) ## run the tests without a network, 95 % of branches at least; ARGS="-k name" narrows them
	@echo "test: running the suite on $$($(PY) -V) (no network, no keys)"
ifneq ($(ARGS)$(ON),)
	@$(PY) -m pytest -q $(or $(ARGS),-n 2)
else
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest -q -n 2
	@$(PY) -m coverage combine -q
	@$(PY) -m coverage report
endif

test-newest: $(UV) ## run the tests on the newest of all dependencies, on the newest Python that is here
	@scripts/resolve newest $(or $(ON),newest)
	@.cache/newest/bin/python -m pytest -q $(or $(ARGS),-n 2)

test-lowest: $(UV) ## run the tests on the lowest versions that pyproject.toml allows
	@scripts/resolve lowest $(or $(ON),3.11) --resolution lowest-direct
	@.cache/lowest/bin/python -m pytest -q $(or $(ARGS),-n 2)

check: $(READY) ## lint, format, types, generated pages, documentation
	@echo "check: ruff"
	@$(PY) -m ruff check -q .
	@$(PY) -m ruff format -q --check .
	@echo "check: mypy"
	@$(PY) -m mypy --no-error-summary
	@echo "check: generated pages"
	@$(PY) scripts/generate_docs.py --check
	@$(PY) scripts/pictures.py --check
	@echo "check: documentation"
	@$(PY) -m mkdocs build -q --strict
	@echo "check: all good"

format: $(READY) ## fix and format with ruff
	@$(PY) -m ruff check -q --fix .
	@$(PY) -m ruff format -q .

docs: $(READY) ## write the generated pages, build the site into site/
	@$(PY) scripts/generate_docs.py
	@$(PY) -m mkdocs build -q --strict
	@echo "docs: open site/index.html"

docs-serve: $(READY) ## show the site while you write it
	@$(PY) -m mkdocs serve

record: $(READY) ## record the cassettes of one PROVIDER again (PROVIDER=embedded needs no key)
	@$(PY) scripts/record.py $(PROVIDER)

soak: $(READY) ## the long tests: crashes, load, faults; SOAK_ROUNDS=200 of each
	@SOAK_ROUNDS=$(or $(SOAK_ROUNDS),200) $(PY) -m pytest -q -m soak --timeout=0

lock: $(UV) ## lock what pyproject.toml asks for; UPGRADE=1 takes newer versions (needs an index)
	@UPGRADE=$(UPGRADE) scripts/lock

build: $(READY) ## build the wheel and the sdist into dist/
	@rm -rf dist
	@$(PY) -m build --no-isolation --outdir dist > /dev/null
	@ls dist

clean: ## remove the files that these commands create, environments too
	@rm -rf .venv .cache build dist site htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# LiteLLM is compiled at the end, also where the environment says to write no bytecode: its import takes seconds less
# in each of the many processes that the tests start.
$(READY): requirements/pip.txt requirements/dev.txt pyproject.toml
	@scripts/find-python $(ON) > /dev/null
	@rm -f $(VENV)/.ready-*
	@$(PY) -c "" 2> /dev/null || { python=$$(scripts/find-python $(ON)); echo "set-up: making $(VENV) with $$python"; $$python -m venv --clear $(VENV); }
	@echo "set-up: installing the locked packages into $(VENV) (once; about 250 MB, a minute or two)"
	@$(PY) -m pip install -q --disable-pip-version-check --no-input --require-hashes -r requirements/pip.txt
	@$(PY) -m pip install -q --disable-pip-version-check --no-input --no-compile --require-hashes -r requirements/dev.txt
	@$(PY) -m pip install -q --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	@echo "set-up: compiling LiteLLM (once)"
	@PYTHONDONTWRITEBYTECODE= LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_MODE=PRODUCTION $(PY) -c "import litellm"
	@touch $@

$(UV):
	@python=$$(scripts/find-python) && $$python -m venv --clear .cache/lock
	@.cache/lock/bin/python -m pip install -q --disable-pip-version-check --no-input uv
