# `make` lists the targets. Everything runs in .venv, which is built from setup.py on first use.
.DEFAULT_GOAL := help
.PHONY: help install demo dist docs fuzz test test-quick test-watching install-watching test-engines test-engines-small install-engines install-small-engines install-java test-faults test-hosts test-networks test-thorough test-versions coverage bench-transport bench-copies bench-overhead bench-peers bench-scaling bench-foresight bench-plans bench-across check protos check-protos clean

# Else every process of a test compiles the package anew, and pytest rewrites every test.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
# Python 3.10, the oldest that setup.py allows, where there is one; pyenv wants to be asked for it.
OLDEST_PYTHON ?= $(shell PYENV_VERSION=3.10 python3.10 -c "import sys; print(sys.executable)" 2> /dev/null || echo $(PYTHON))
REPEAT ?= 1
# How many test processes share the tests, a file at a time. Each needs a core, and 3 GB of memory.
TEST_PROCESSES ?= 2
PARALLEL := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
TESTS ?= tests
PIP_QUIET := --quiet --disable-pip-version-check
PROTOC := .venv-protos/bin/python -m grpc_tools.protoc -Iprotos
PROTOS := $(wildcard protos/poseidon_tf/wire/*.proto)

# What versions of TensorFlow, Keras, gRPC and protobuf may change, with real processes.
VERSION_TESTS := tests/strategy tests/keras_hooks tests/restart tests/launch tests/examples
VERSION_TESTS += tests/wire tests/transport tests/faults/test_bad_arguments.py

# What has no marker is quick, and only to collect these would load TensorFlow.
QUICK := "not processes and not connections and not tensorflow and not exhaustive"
TENSORFLOW_TESTS := tests/strategy tests/keras_hooks tests/launch/test_failure_text.py
TENSORFLOW_TESTS += tests/launch/test_show_plan.py tests/launch/test_documented_deadlines.py

# Debian's packages for tests_engines; pip installs Ray, PyTorch, Spark and MPI for Python.
SMALL_ENGINES := slurm-wlm munge openmpi-bin
ENGINES := $(SMALL_ENGINES) mpich
# Debian's packages for tests_watching, and what Grafana publishes for Python of its dashboards.
WATCHERS := prometheus chromium
GRAFANA_SCHEMA := grafana-foundation-sdk==1769699998!10.1.0

FUZZ_TARGETS := lane frame member_message coordinator_message status plan plan_fields array_bytes ledger
FUZZ_TARGETS += kv_service factor_service roster coordinator_service
FUZZ_TARGETS += coordinator_client data_ends server_link
FUZZ_SECONDS ?= 60

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 16

install: .venv/installed  ## build .venv with the package and what its tests need

demo: install  ## train on handwritten digits: 2 workers and 2 servers on this machine
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/poseidon-tf run --workers 2 --servers 2 examples/digits.py

test: install  ## run the tests that every change must pass, in TEST_PROCESSES processes
	.venv/bin/python -m pytest $(PARALLEL)

test-quick: install  ## run, in seconds, the tests without TensorFlow, other processes and connections
	.venv/bin/python -m pytest -q -m $(QUICK) $(addprefix --ignore=,$(TENSORFLOW_TESTS))

test-hosts: install  ## run the tests between emulated hosts; needs root and iproute2
	.venv/bin/python -m pytest tests_hosts

test-engines: install install-engines install-java .venv-kubernetes/installed .venv-ray/installed .venv-spark/installed .venv-torch/installed .mpi4py/installed  ## train under Slurm, MPI, Ray, Spark and torchrun; needs root and Debian; 20 minutes
	.venv/bin/python -m pytest tests_engines

test-engines-small: install install-small-engines  ## the same weights under srun and mpirun; needs root and Debian
	.venv/bin/python -m pytest tests_engines -k "srun_trains or (mpi_trains and Open)"

# Whatever is installed already needs no network.
apt_install = [ "$$(dpkg-query --show --showformat='$${db:Status-Status}\n' $(1) 2> /dev/null | \
	grep --count --line-regexp installed)" = $(words $(1)) ] || { apt-get update --quiet && \
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $(1); }

install-engines:
	@$(call apt_install,$(ENGINES))

install-small-engines:
	@$(call apt_install,$(SMALL_ENGINES))

install-java:
	@command -v java > /dev/null || { $(call apt_install,default-jre-headless); }

test-watching: install install-watching  ## Prometheus scrapes a job, Chromium opens its report, Grafana's schema; needs root and Debian
	.venv/bin/python -m pytest tests_watching

install-watching: .venv/installed
	.venv/bin/python -m pip install $(PIP_QUIET) "$(GRAFANA_SCHEMA)"
	@$(call apt_install,$(WATCHERS))

test-faults: install  ## run the fault matrix over both protocols, REPEAT times; needs root, iproute2, /dev/net/tun; 40 minutes
	.venv/bin/python -m pytest tests_faults tests_hosts/test_troubled_links.py --repeat $(REPEAT)

test-networks: install  ## train VGG16, ResNet50, EfficientNetB0 and InceptionV3 on 2 workers; minutes
	.venv/bin/python -m pytest -m networks

test-thorough: install  ## run what make test leaves out: three workers, several replicas, slow benchmarks; 10 minutes
	.venv/bin/python -m pytest -m thorough $(PARALLEL)

test-versions: install .venv-oldest/installed .venv-nightly/installed  ## run what versions may change on the oldest, the newest and the next ones
	.venv-oldest/bin/python -m pytest $(PARALLEL) $(VERSION_TESTS)
	.venv/bin/python -m pytest $(PARALLEL) $(VERSION_TESTS)
	.venv-nightly/bin/python -m pytest $(PARALLEL) $(VERSION_TESTS)

# The exit code is that of the tests.
coverage: .venv/installed-dev  ## lines of poseidon_tf that no test runs in any process; TESTS chooses among them
	@rm -rf .coverage-data && mkdir .coverage-data
	export COVERAGE_FILE=$(CURDIR)/.coverage-data/lines; \
		.venv/bin/python -m coverage run -m pytest $(TESTS); code=$$?; \
		.venv/bin/python -m coverage combine --quiet && \
		.venv/bin/python -m coverage report --show-missing --skip-covered && exit $$code

fuzz: .venv/installed-fuzz  ## look for bytes that break a decoder or a service; a minute for each
	for target in $(FUZZ_TARGETS); do \
		.venv/bin/python tests/fuzz/run_atheris.py $$target -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench-transport: install  ## sums and factors against a bare gRPC echo and iperf3
	.venv/bin/python benchmarks/bench_transport.py

bench-copies: install  ## how often a process copies a byte of a gradient; needs valgrind
	.venv/bin/python benchmarks/bench_copies.py

bench-overhead: install  ## time per step, memory and start, where nothing is hidden
	.venv/bin/python benchmarks/bench_overhead.py
	.venv/bin/python benchmarks/bench_startup.py

bench-peers: install .venv-tf-keras/installed .venv-torch/installed .venv-jax/installed  ## against TensorFlow's own strategy, PyTorch DDP and Keras on JAX
	.venv/bin/python benchmarks/bench_peers.py

bench-scaling: install .venv-tf-keras/installed  ## 2 to 16 workers on emulated accelerators and links; an hour or more
	.venv/bin/python benchmarks/bench_scaling.py
	.venv/bin/python benchmarks/bench_scaling.py --traffic
	.venv/bin/python benchmarks/bench_scaling.py --timeline
	.venv/bin/python benchmarks/plots.py

bench-across: install .venv-tf-keras/installed .venv-torch/installed  ## updates across the step and 16 bits; an hour and a quarter; writes tables and pictures into docs/
	.venv/bin/python benchmarks/bench_scaling.py --cells targets --scale 4 --warm-up 2 --steps 4
	.venv/bin/python benchmarks/bench_peers.py --modes step across 16-bits across-16-bits --links 1gbit 100mbit
	.venv/bin/python benchmarks/bench_scaling.py --cells sweep --warm-up 2 --steps 4
	.venv/bin/python benchmarks/bench_scaling.py --traffic --pace queue
	.venv/bin/python benchmarks/publish.py

bench-foresight: install  ## predictions of the model of a step beside measurements; a quarter of an hour
	.venv/bin/python benchmarks/bench_foresight.py

bench-plans: install  ## steps by plans by time beside those by bytes; needs root for shaped links
	.venv/bin/python benchmarks/bench_plans.py

# PYTHONPATH: mkdocs-click imports the commands, and the package is not installed there.
docs: .venv-docs/installed  ## build the site in site/; a broken link or a page that is in no menu is an error
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

dist: install  ## build the wheel and the source distribution in dist/
	.venv/bin/python -m build --no-isolation --outdir dist .

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
	rm -rf .coverage-data .fuzz .mpi4py .venv .venv-* build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
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

.venv/installed-fuzz: .venv/installed
	@echo "adding the fuzzer to .venv"
	.venv/bin/python -m pip install $(PIP_QUIET) -e ".[fuzz]"
	@touch $@

# The oldest of everything that setup.py allows.
.venv-oldest/installed: setup.py
	@echo "building .venv-oldest: TensorFlow 2.16 with Keras 3.10"
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install $(PIP_QUIET) -e ".[test]" \
		"tensorflow==2.16.*" "keras==3.10.*" "grpcio==1.80.*" "protobuf==4.25.*"
	@touch $@

# What is released next, under other names than setup.py asks for: it takes the place of what
# setup.py has brought. Remove the folder to get later ones.
.venv-nightly/installed: setup.py
	@echo "building .venv-nightly: the nightlies of TensorFlow and Keras"
	$(PYTHON) -m venv .venv-nightly
	.venv-nightly/bin/python -m pip install $(PIP_QUIET) -e ".[test]"
	.venv-nightly/bin/python -m pip uninstall $(PIP_QUIET) --yes keras tensorflow tf-keras
	.venv-nightly/bin/python -m pip install $(PIP_QUIET) --pre keras-nightly
	.venv-nightly/bin/python -m pip install $(PIP_QUIET) --pre tf-nightly tf-keras-nightly || { \
		echo "no nightly of TensorFlow for this Python: taking its newest release"; \
		.venv-nightly/bin/python -m pip install $(PIP_QUIET) --no-deps tensorflow tf-keras; }
	@touch $@

# A generator of its own: stubs from this version run with every protobuf from 4.25 on, while the
# newest ones refuse an older runtime. It needs an older protobuf than TensorFlow does.
.venv-protos/installed:
	@echo "building .venv-protos: the protobuf compiler"
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/python -m pip install $(PIP_QUIET) "grpcio-tools==1.62.*" "setuptools<80"
	@touch $@

.venv-jax/installed:
	@echo "building .venv-jax: a peer of the benchmarks, Keras on JAX"
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/python -m pip install $(PIP_QUIET) "jax==0.10.*" "keras==3.15.*"
	@touch $@

# Reads the package's source, and imports only its commands.
.venv-docs/installed:
	@echo "building .venv-docs: the site's generator"
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install $(PIP_QUIET) "mkdocs==1.6.*" "mkdocs-material==9.8.*" \
		"mkdocstrings==1.0.*" "mkdocstrings-python==2.0.*" "mkdocs-click==0.9.*" \
		"click==8.*" "ruff==0.*"
	@touch $@

# TensorFlow's own multi-worker strategy fails with Keras 3; it runs with the Keras 2 of tf-keras.
.venv-tf-keras/installed:
	@echo "building .venv-tf-keras: a peer of the benchmarks, TensorFlow with Keras 2"
	$(PYTHON) -m venv .venv-tf-keras
	.venv-tf-keras/bin/python -m pip install $(PIP_QUIET) "tensorflow==2.21.*" "tf-keras==2.21.*"
	@touch $@

# For whatever MPI has started a process. In a folder of its own, as only some tests may find it.
.mpi4py/installed:
	@echo "building .mpi4py: MPI for Python"
	$(PYTHON) -m pip install $(PIP_QUIET) --target .mpi4py "mpi4py==4.1.*"
	@touch $@

# What Kubernetes, JobSet and Kubeflow publish for Python of their manifests.
.venv-kubernetes/installed:
	@echo "building .venv-kubernetes: schemas of manifests"
	$(PYTHON) -m venv .venv-kubernetes
	.venv-kubernetes/bin/python -m pip install $(PIP_QUIET) "kubernetes-validate==1.37.*" \
		"kubeflow-trainer-api==2.3.*" "kubeflow-training==1.9.*" "setuptools<80"
	@touch $@

.venv-spark/installed: setup.py
	@echo "building .venv-spark: Spark, the package, and what the examples need"
	$(PYTHON) -m venv .venv-spark
	.venv-spark/bin/python -m pip install $(PIP_QUIET) -e . "pyspark==4.1.*" scikit-learn
	@touch $@

.venv-ray/installed: setup.py
	@echo "building .venv-ray: Ray Train, the package, and what the examples need"
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install $(PIP_QUIET) -e . "ray[train]==2.60.*" scikit-learn
	@touch $@

.venv-torch/installed:
	@echo "building .venv-torch: torchrun, and a peer of the benchmarks, PyTorch"
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install $(PIP_QUIET) "torch==2.13.0" numpy
	@touch $@
