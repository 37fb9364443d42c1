# `make` lists the targets. Everything runs in .venv, which is built from setup.py on first use.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-hosts bench-transport check protos check-protos clean

PYTHON ?= python3
PIP_QUIET := --quiet --disable-pip-version-check
PROTOC := .venv-protos/bin/python -m grpc_tools.protoc -Iprotos
PROTOS := $(wildcard protos/poseidon_tf/wire/*.proto)

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 16

install: .venv/installed  ## build .venv with the package and what its tests need

demo: install  ## train on handwritten digits: 2 workers and 2 servers on this machine
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/poseidon-tf run --workers 2 --servers 2 examples/digits.py

test: install  ## run all tests
	.venv/bin/python -m pytest

test-fast: install  ## run the tests that start no processes
	.venv/bin/python -m pytest -m "not processes"

test-hosts: install  ## run the tests between emulated hosts; needs root and iproute2
	.venv/bin/python -m pytest tests_hosts

bench-transport: install  ## sums through one server against a bare gRPC echo
	.venv/bin/python benchmarks/bench_transport.py

check: .venv/installed-dev check-protos  ## lint, format, types, stubs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

protos: .venv-protos/installed  ## write the stubs in poseidon_tf/wire anew
	$(PROTOC) --python_out=. --pyi_out=. $(PROTOS)

check-protos: .venv-protos/installed  ## fail if the stubs are not what protos/ gives
	@rm -rf .venv-protos/stubs && mkdir .venv-protos/stubs
	$(PROTOC) --python_out=.venv-protos/stubs --pyi_out=.venv-protos/stubs $(PROTOS)
	@cd .venv-protos/stubs && for stub in poseidon_tf/wire/*; do \
		diff -u ../../$$stub $$stub || { echo "$$stub is out of date: run make protos"; exit 1; }; \
	done

clean:  ## remove what make, the tools and Python have built
	rm -rf .venv .venv-protos build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: setup.py
	@echo "building .venv from setup.py: the package, its dependencies, and those of its tests"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install $(PIP_QUIET) -e ".[test]"
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "adding the linters to .venv"
	.venv/bin/python -m pip install $(PIP_QUIET) -e ".[dev]"
	@touch $@

# A generator of its own: stubs from this version run with every protobuf from 4.25 on, while the
# newest ones refuse an older runtime. It needs an older protobuf than TensorFlow does.
.venv-protos/installed:
	@echo "building .venv-protos: the protobuf compiler"
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/python -m pip install $(PIP_QUIET) "grpcio-tools==1.62.*" "setuptools<80"
	@touch $@
