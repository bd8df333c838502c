# Needs nothing beforehand but make and a python3 of 3.11 or newer with its venv module.
PYTHON ?= python3
BIN := .venv/bin
CODE := $(wildcard perdure api worker alembic tests bench docs_site examples)
TESTS ?=
# Most tests wait for processes: three at a time keep two cores busy. A few tests are quicker without.
PARALLEL ?= $(if $(TESTS),0,3)
CHAOS_TASKS ?= 5000
CHAOS_FAULTS ?= 200
CHAOS_SEED ?=
CHAOS_KEYS ?= on
FUZZ_INPUTS ?= 10000
FUZZ_SEED ?=

.DEFAULT_GOAL := help
.PHONY: help run test chaos fuzz audit coverage check docs dist sbom image format constraints bench bench-quick profile \
  swagger-ui ops-assets test-browser test-clients screenshots clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[.a-z]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv  ## Serve examples/echo.py on http://localhost:3773, everything in one process
	@$(BIN)/perdure serve examples/echo.py

test: .venv  ## Run the tests, three at a time (PARALLEL=1: one; TESTS="tests/unit -k lease" runs some)
	@$(BIN)/pytest -n $(PARALLEL) --dist worksteal $(TESTS)

chaos: .venv  ## Break a fleet at random for a quarter of an hour, and check (CHAOS_TASKS, CHAOS_FAULTS, CHAOS_SEED)
	@$(BIN)/python -m tests.chaos --tasks $(CHAOS_TASKS) --faults $(CHAOS_FAULTS) --keys $(CHAOS_KEYS) \
	  $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

# In a virtual environment of its own: it is no part of the project. Strict: a package that could not be looked up is no clean one.
audit:  ## Look every pinned version up among the known vulnerabilities (needs a network)
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit; }
	@build/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt || \
	  { echo "make audit: a package is vulnerable, or could not be looked up (no network?): see above"; exit 1; }

fuzz: .venv  ## Send ten thousand bad requests to a front door, and check (FUZZ_INPUTS, FUZZ_SEED)
	@$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

bench: .venv/bench  ## Measure Perdure beside its peers and the limits, half an hour (ONLY="drain pickup" measures some)
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))
	@$(BIN)/python -m bench --plot docs/performance
	@$(BIN)/python -m bench --page docs/performance.md

bench-quick: .venv/bench  ## The headline ratios, in two minutes
	@$(BIN)/python -m bench --quick --json build/bench-quick.json

profile: .venv/bench  ## Where front door and worker spend their time under load: flame graphs, and shares on docs/performance.md
	@$(BIN)/python -m bench.profile

coverage: .venv  ## Run the tests and show the branches they miss
	@$(BIN)/pytest --cov --cov-report=term $(TESTS)

check: .venv  ## Check format, lint, types, imports between layers and spelling
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy $(CODE)
	@$(BIN)/lint-imports --verbose > .venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/codespell

docs: .venv  ## Build the documentation as a site, and check every link on it (build/docs/site)
	@$(BIN)/python -m docs_site

# Built as it is released: the wheel from the sdist. Smoke-tested in clean environments, from a hostile folder; with CLEAN=1 the
# libraries are installed there too, by pip, as for a user (needs a network).
dist: .venv  ## Build the wheel and the sdist into dist/ and try them out
	@rm -f dist/*.whl dist/*.tar.gz
	@$(BIN)/python -m build --no-isolation --outdir dist > .venv/build.log 2>&1 || { cat .venv/build.log; exit 1; }
	@DIST=$(CURDIR)/dist $(BIN)/pytest -q -n 0 $(if $(CLEAN),--timeout 600) tests/smoke
	@ls dist

# What `pip install perdure` brings, at the pinned versions. Both environments are apart from .venv, which has tools.
sbom:  ## List what the wheel depends on, with versions and licences, in dist/sbom.json (CycloneDX)
	@test -x build/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv build/sbom && build/sbom/bin/pip install --quiet cyclonedx-bom; }
	@rm -rf build/sbom-of && $(PYTHON) -m venv --without-pip build/sbom-of
	@build/sbom/bin/pip --python build/sbom-of/bin/python install --quiet --disable-pip-version-check -c constraints.txt .
	@mkdir -p dist && build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --output-file dist/sbom.json build/sbom-of/bin/python

image:  ## Build the container image `perdure` (needs Docker)
	docker build --tag perdure .

format: .venv  ## Format the code and fix what ruff can fix
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

constraints: .venv  ## Renew constraints.txt with the newest versions that pyproject.toml allows
	@$(BIN)/pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	@{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable; } > .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt

.venv: .venv/installed  ## Create the virtual environment and install everything into it

# The stamp, and not the folder, is the target: an install that broke off is taken up again.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perdure needs Python 3.11 or newer")'
	@echo "[1/2] creating .venv"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "[2/2] installing perdure and its tools (about a minute, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

.venv/bench: .venv/installed
	@echo "installing what the benchmarks need"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,bench]' -c constraints.txt
	@touch $@

swagger-ui:  ## Renew the page at /docs with the newest Swagger UI (needs npm)
	@rm -rf build/swagger-ui && mkdir -p build/swagger-ui
	@cd build/swagger-ui && npm pack --silent swagger-ui-dist > /dev/null && tar xzf swagger-ui-dist-*.tgz
	@cd build/swagger-ui/package && cp LICENSE NOTICE swagger-ui.css swagger-ui-bundle.js \
	  swagger-ui-bundle.js.LICENSE.txt $(CURDIR)/api/assets/swagger-ui/
	@sed -i '/sourceMappingURL/d' api/assets/swagger-ui/swagger-ui.css api/assets/swagger-ui/swagger-ui-bundle.js
	@cd build/swagger-ui && ls swagger-ui-dist-*.tgz | sed 's/-\([0-9.]*\)\.tgz/ \1/' > $(CURDIR)/api/assets/swagger-ui/VERSION
	@cat api/assets/swagger-ui/VERSION

ops-assets:  ## Renew the scripts of the page at /ops with the newest htmx 2 and uPlot (needs npm)
	@rm -rf build/ops && mkdir -p build/ops
	@cd build/ops && for name in htmx.org@2 htmx-ext-sse uplot; do \
	  folder=$${name%@*} && mkdir $$folder && cd $$folder && npm pack --silent $$name > /dev/null && tar xzf ./*.tgz && cd ..; done
	@cd build/ops && cp htmx.org/package/dist/htmx.min.js htmx.org/package/LICENSE htmx-ext-sse/package/dist/sse.min.js \
	  $(CURDIR)/api/assets/ops/htmx/ && cp htmx-ext-sse/package/LICENSE $(CURDIR)/api/assets/ops/htmx/LICENSE-sse
	@cd build/ops/uplot/package && cp dist/uPlot.iife.min.js dist/uPlot.min.css LICENSE $(CURDIR)/api/assets/ops/uplot/
	@sed -i '/sourceMappingURL/d' api/assets/ops/htmx/*.js api/assets/ops/uplot/*.js
	@cd build/ops && ls htmx.org/*.tgz htmx-ext-sse/*.tgz | sed 's/.*\/\(.*\)-\([0-9.]*\)\.tgz/\1 \2/' > $(CURDIR)/api/assets/ops/htmx/VERSION
	@cd build/ops && ls uplot/*.tgz | sed 's/.*\/\(.*\)-\([0-9.]*\)\.tgz/\1 \2/' > $(CURDIR)/api/assets/ops/uplot/VERSION
	@cat api/assets/ops/*/VERSION

test-browser: .venv  ## Drive the operators' page in a real browser (needs Chromium: apt-get install chromium)
	@$(BIN)/pytest tests/browser $(if $(TESTS),$(TESTS),-q)

# The clients are no part of the project, and are kept out of .venv: build/clients has an environment for each.
test-clients: .venv  ## Drive a front door with clients in other languages and versions (needs node and npm, and downloads)
	@$(BIN)/pytest tests/clients $(if $(TESTS),$(TESTS),-q)

screenshots: .venv  ## Renew the pictures of the operators' page in docs/images (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots

clean:  ## Remove .venv, caches and build results
	rm -rf .venv build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache \
	  .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
