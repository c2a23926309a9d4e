# Everything a developer or a visitor runs. Each target makes .venv first where it is missing.
PYTHON ?= python3
BIN := .venv/bin
STUBS := proto/sparsilo/v1

.PHONY: demo test test-demo mutations lint proto clean
.DELETE_ON_ERROR:

demo: .venv/.ok ## prune a small model over four silos and print what came of it
	$(BIN)/python -m bench.demo.run --out demo-out

test: .venv/.ok ## all tests but the slow ones, with branch coverage of crypto/
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term --cov-fail-under=95

test-demo: .venv/.ok ## run the demo and hold what it prints against what the README says of it
	$(BIN)/python -m pytest -m slow tests/integration/test_demo.py

mutations: .venv/.ok ## break the code in known ways, each of which must fail a test
	$(BIN)/python tests/mutations.py

lint: .venv/.ok ## formatting, lint and types, as CI runs them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

proto: .venv/.ok ## regenerate the committed stubs (a test fails when they are stale)
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto $(STUBS)/*.proto

clean:
	rm -rf .venv demo-out build .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
