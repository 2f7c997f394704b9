# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
# PYTHON names the interpreter that .venv is made from (3.11 or newer). NO_APT=1 forbids installing Debian packages.

PYTHON ?= python3
CONFIG ?= postroika.toml
# Processes at once, for checks and tests; system tests use their own ports and directories.
JOBS ?= $(shell nproc)
PYTEST_FLAGS ?=
FUZZ_S ?= 60
# As in `make bench BENCH_FLAGS="relay --rounds 5"`.
BENCH_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
KERNELS := $(wildcard cext/*.pyx cext/*.pxd cext/*.pxi cext/*.h cext/*.c)
COMPILED := $(addprefix src/,$(addsuffix .py,$(subst .,/,$(shell sed -n '/^\[tool.postroika.compiled]/,/^\[tool.ruff]/p' pyproject.toml | grep -o '"postroika[.a-z_]*' | tr -d '"' ))))
# With INTERPRETED=1 the modules on the path of a message run as they stand, and an edit counts without a compiler.
BUILT := $(if $(INTERPRETED),interpreted,$(VENV)/.compiled)
COMPILED_MODULES := find src -name '*.so' -not -path '*/kernels/*'
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help run test build interpreted lint sanitize fuzz format docs bench clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: build $(CONFIG) ## Start the server on 127.0.0.1:2525, with its files under ./var
	@exec $(BIN)/postroika serve --config $(CONFIG)

test: $(VENV)/.tests $(BUILT) lint ## Run every check: lint, types, layers, and all tests
	@tools/prepare-peers
	tools/sanitize $(VENV) $(JOBS)
	$(BIN)/pytest -n $(JOBS) $(PYTEST_FLAGS)

lint: $(VENV)/.tests $(VENV)/.kernels ## Run the checks that need no running: style, types, layers
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	tools/check-async $(VENV) $(JOBS) src tests benchmarks tools
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

sanitize: $(VENV)/.tests $(VENV)/.kernels ## Test the kernels with AddressSanitizer and UBSan
	tools/sanitize $(VENV) $(JOBS)

fuzz: $(VENV)/.tests $(VENV)/.kernels ## Look for what kernels and their plain twins see differently, FUZZ_S seconds each
	$(BIN)/python -m tests.fuzz.grow --seconds $(FUZZ_S)

build: $(BUILT) ## Make .venv, compile the kernels and the modules on the path of a message

format: $(VENV)/.tests ## Format the source
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format --quiet

docs: $(VENV)/.tests ## Write the generated pages in docs/
	$(BIN)/python -m tools.config_page > docs/config.md

bench: $(VENV)/.tests $(BUILT) ## Measure beside Postfix and others: the quick set, about 10 minutes
	$(BIN)/postroika bench run --quick $(if $(NO_APT),,--install) --out benchmarks/results $(BENCH_FLAGS)

clean: ## Remove what was built; the spool, the logs and the config stay
	rm -rf $(VENV) build dist src/*.egg-info
	find src -name "*.so" -delete
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

postroika.toml: | $(BUILT)
	@$(BIN)/postroika default-config $$([ "$$(id -u)" -ne 0 ] || echo --user root) > $@.new && mv $@.new $@
	@echo "Wrote $@: every key with its meaning and default."

# The stamps stand in .venv and so vanish with it. Build requirements are installed beside the rest, so that a changed
# kernel is compiled without fetching anything.
$(VENV)/.python: tools/prepare-python tools/debian.sh
	@tools/prepare-python $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.python pyproject.toml setup.py
	@echo "Installing what Postroika needs into $(VENV)"
	@$(PIP) install $$($(BIN)/python tools/build_requirements.py)
	@POSTROIKA_COMPILE= $(PIP) install --no-build-isolation --editable .
	@touch $@

$(VENV)/.kernels: $(VENV)/.package $(KERNELS)
	@echo "Compiling the kernels"
	@POSTROIKA_COMPILE=kernels $(BIN)/python setup.py --quiet build_ext --inplace --parallel $(JOBS)
	@touch $@

$(VENV)/.compiled: $(VENV)/.kernels $(COMPILED)
	@echo "Compiling the modules on the path of a message"
	@$(COMPILED_MODULES) -delete
	@POSTROIKA_COMPILE=modules $(BIN)/python setup.py --quiet build_ext --inplace --parallel $(JOBS) || { \
		echo "Once more, without what mypyc has kept: if the source is right, it has stumbled over that"; \
		rm -rf build/mypyc; \
		POSTROIKA_COMPILE=modules $(BIN)/python setup.py --quiet build_ext --inplace --parallel $(JOBS); }
	@$(COMPILED_MODULES) -exec touch {} +  # setuptools leaves the time of what it need not link again
	@touch $@

interpreted: $(VENV)/.kernels
	@$(COMPILED_MODULES) -delete
	@rm -f $(VENV)/.compiled

$(VENV)/.tests: $(VENV)/.package
	@echo "Installing what the checks need into $(VENV)"
	@POSTROIKA_COMPILE= $(PIP) install --no-build-isolation --editable '.[test]'
	@touch $@
