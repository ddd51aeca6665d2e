# Needs python3 >= 3.11 with venv, and make. Everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup demo test check lint types unit integration bench lock proto clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup   ## the whole story on this machine, without any cloud
	$(BIN)/idtoken-sidecar demo

test: check   ## everything that CI runs
	$(BIN)/pytest

check: lint types   ## what needs no running program

lint: setup
	$(BIN)/ruff format --check ext_authz tests bench tools
	$(BIN)/ruff check ext_authz tests bench tools
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/sync_envoy_lua.py --check

types: setup
	$(BIN)/mypy

unit: setup   ## seconds
	$(BIN)/pytest tests/unit

integration: setup
	$(BIN)/pytest tests/integration tests/clients

bench: setup   ## about ten minutes, alone on the machine; BENCH=--quick takes less than two
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m bench $(BENCH)

lock:   ## resolve the locked versions anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --extra envoy pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --extra envoy --group dev pyproject.toml -o requirements-dev.lock

proto: setup   ## regenerate the message classes
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. ext_authz/proto/external_auth.proto

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
