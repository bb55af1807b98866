# make demo              the whole pipeline on a synthetic camera, setup included (DURATION=20 stops it)
# make test              installs what the tests need and runs them, two files at a time (PYTEST_ARGS="-n 0 -x": one, to the first failure)
# make coverage          the same tests, and how much of the package they run
# make check             formatting, lints, types;  make format: fixes what can be fixed
# make docs              the documentation as a site, in build/site
# make diagrams          its pictures, from tools/diagrams.py;  tools/record_viewer.py: the recording of the viewer
# make lock              constraints.txt from pyproject.toml (needs uv)
# make clean             removes .venv, caches and build/
#
# make test-fresh        `make demo` and `make test` in a clean clone on bare Debian 12 and 13, in containers
#                        (CHECKS=trixie-user: only that one)
# make test-containers   builds the images, runs the compose files and the chart with podman or Docker (15 min)
# make test-home-assistant   the real Home Assistant from PyPI with mosquitto and a node (10 min, root)
# make test-k3s          installs, tests, upgrades and removes the chart on the cluster of kubectl
# make faults            all fault tests, with their times;  make fault-times: writes these into docs/reliability.md
# make fuzz SECONDS=60   new inputs for every parser (or for TARGETS=...), so many seconds for each
# make soak HOURS=0.5    memory, descriptors, queues and latency over time, in build/soak
# make audit             known vulnerabilities of the dependencies (AUDIT_ARGS=--strict: fail if no database can be reached)
#
# make bench             every millisecond, in build/bench/bench.html (QUICK=1, MODEL=export.onnx, INT8=quantised.onnx)
# make bench-peers MODEL=export.onnx   compared with a plain script and other projects, in build/bench/peers.json
#                        (FOOTAGE=, PEERS=python with supervision and inference, ORIGINAL=detr-mmap/target/release)
# make bench-calm        a calm camera compared with a plain script, over minutes of footage, in build/bench/calm.json
#                        (MODEL=, FOOTAGE=, TRUTH=)
# make bench-gpu         everything that is measured on a GPU, in build/bench-gpu/gpu.json (MODEL=export.onnx)
# make bench-compare A.json B.json   what changed between two reports;  make bench-docs: their tables in the documentation
# make profile           flame graphs of detector, capture and gateway, in build/profile
# make train-demo-model  trains the bundled model again (about two hours on two cores, minutes on a GPU)
SHELL := /bin/sh
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt
# The server binary for PCs. --no-deps, because its pinned dependencies conflict with numpy 2.
TRITON_WHEEL := nvidia-pytriton==0.7.0
TEST_PACKAGES := mosquitto mosquitto-clients prometheus chromium nginx-light faketime ffmpeg libb64-0d qemu-system-x86 busybox-static \
	gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
	gcc g++ libatomic1 btrfs-progs
PYTEST_ARGS ?=
SECONDS ?= 60
FAULT_TIMES ?= $(CURDIR)/build/faults.jsonl

.PHONY: coverage docs diagrams help demo test test-fresh test-containers test-home-assistant test-k3s check format faults fault-times fuzz audit soak bench bench-gpu bench-peers bench-calm bench-docs bench-compare profile train-demo-model lock clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

$(VENV)/.base: pyproject.toml constraints.txt tools/make-venv tools/pip_install.py
	@echo "Installing tridetr into $(VENV): about 240 MB to download, 850 MB on disk; one to five minutes the first time."
	@test -x $(VENV)/bin/python || tools/make-venv $(VENV)
	@$(VENV)/bin/python tools/pip_install.py --constraint constraints.txt --editable '.[server,v4l2]'
	@if [ "$$(uname -m)" = x86_64 ]; then \
		echo "Installing NVIDIA Triton Inference Server:"; \
		$(VENV)/bin/python tools/pip_install.py --no-deps $(TRITON_WHEEL); \
	fi
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(PIP) --editable '.[server,v4l2,models,otel,dev]'
	@touch $@

demo: $(VENV)/.base
	@echo "Starting the demo: a synthetic street, the bundled model (4 MB), Triton and an embedded broker; ready in about 10 seconds."
	@exec $(VENV)/bin/tridetr up --demo $(if $(DURATION),--duration $(DURATION))

# Without --no-loadscope-reorder, files with few but long tests come last, and one process waits for the other.
test: $(VENV)/.dev
	@tools/apt-install $(TEST_PACKAGES)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not soak and not long_faults and not containers and not home_assistant" $(PYTEST_ARGS)

coverage: $(VENV)/.dev
	@tools/apt-install $(TEST_PACKAGES)
	$(VENV)/bin/python -m coverage run -m pytest -m "not soak and not long_faults and not containers and not home_assistant" $(PYTEST_ARGS)
	@$(VENV)/bin/python -m coverage combine --quiet
	@$(VENV)/bin/python -m coverage report --skip-covered

# Installs podman with what it needs if there is no Docker, and Docker Compose.
test-containers: $(VENV)/.dev
	@docker info >/dev/null 2>&1 || tools/apt-install podman runc netavark aardvark-dns catatonit iptables debootstrap
	@tools/get-compose build/docker-compose
	$(VENV)/bin/python -m pytest -s tests/containers $(PYTEST_ARGS)

test-home-assistant: $(VENV)/.dev
	@tools/apt-install mosquitto
	@tools/home-assistant
	$(VENV)/bin/python -m pytest -m home_assistant tests/home_assistant $(PYTEST_ARGS)

test-fresh:
	@tools/test-fresh $(CHECKS)

test-k3s:
	@tools/test-k3s

faults: $(VENV)/.dev
	@tools/apt-install $(TEST_PACKAGES)
	@mkdir -p build && rm -f $(FAULT_TIMES)
	TRIDETR_FAULT_TIMES=$(FAULT_TIMES) $(VENV)/bin/python -m pytest tests/faults $(PYTEST_ARGS)
	@$(VENV)/bin/python tools/fault_times.py $(FAULT_TIMES)

# In a folder of its own: there is no atheris for some Pythons and machines.
fuzz: $(VENV)/.dev
	@test -d build/atheris || $(VENV)/bin/python -m pip install --quiet --no-deps --target build/atheris atheris==3.0.0
	PYTHONPATH=build/atheris:clients:tests $(VENV)/bin/python tests/fuzz/run.py --seconds $(SECONDS) $(TARGETS)
	TRIDETR_HYPOTHESIS=fuzz $(VENV)/bin/python -m pytest tests/unit -k "fuzz or hostile or noise or any" $(PYTEST_ARGS)

fault-times:
	$(VENV)/bin/python tools/fault_times.py $(FAULT_TIMES) --update docs/reliability.md

audit: $(VENV)/.base
	@$(VENV)/bin/python tools/audit.py constraints.txt $(AUDIT_ARGS)

HOURS ?= 0.5
soak: $(VENV)/.dev
	@tools/apt-install mosquitto
	$(VENV)/bin/python benchmarks/soak.py --hours $(HOURS) --out build/soak

bench: $(VENV)/.dev
	@$(PIP) --editable '.[server,models,otel,dev,bench]'
	@tools/apt-install libb64-0d chromium mosquitto
	$(VENV)/bin/python benchmarks/report.py $(if $(QUICK),--quick) $(if $(MODEL),--model $(MODEL)) \
		$(if $(INT8),--int8 $(INT8)) $(BENCH_ARGS)

bench-gpu: $(VENV)/.base
	@cd benchmarks/gpu && $(abspath $(VENV))/bin/python -c 'import rig; rig.need_gpu()'
	@$(VENV)/bin/python -c 'import sys; from importlib.util import find_spec; \
		sys.exit(not all(map(find_spec, ("onnx", "cuda", "PyNvVideoCodec", "pynvml"))))' || $(PIP) --editable '.[models,gpu]'
	@$(VENV)/bin/python benchmarks/gpu/all.py $(MODEL)

bench-peers: $(VENV)/.dev
	@tools/apt-install libb64-0d mosquitto
	@mkdir -p build/bench
	$(VENV)/bin/python benchmarks/peers.py $(MODEL) --json build/bench/peers.json $(if $(FOOTAGE),--footage $(FOOTAGE)) \
		$(if $(PEERS),--python $(PEERS)) $(if $(ORIGINAL),--original $(ORIGINAL)) $(BENCH_ARGS)

# A calm camera over minutes of real footage, and what the motion gate misses; resumes where it was stopped
bench-calm: $(VENV)/.dev
	@tools/apt-install mosquitto
	$(VENV)/bin/python benchmarks/calm.py $(MODEL) $(FOOTAGE) $(TRUTH) --out build/bench/calm --json build/bench/calm.json \
		$(BENCH_ARGS)

# Writes the tables of docs/benchmarks.md, docs/hardware.md and README.md from the latest reports.
bench-docs:
	@for report in $(addprefix build/,bench/bench.json bench/peers.json bench/calm.json bench/start.json bench-gpu/gpu.json); do \
		test ! -f $$report || \
		$(VENV)/bin/python benchmarks/tables.py $$report --update docs/benchmarks.md docs/hardware.md README.md; done

# Where a running node spends its time, by py-spy
profile: $(VENV)/.dev
	@$(PIP) --editable '.[server,models,otel,dev,bench]'
	$(VENV)/bin/python benchmarks/hotloop.py $(if $(QUICK),--seconds 5)

bench-compare:
	@$(VENV)/bin/python benchmarks/compare.py $(filter %.json,$(MAKECMDGOALS))

ifneq ($(filter bench-compare,$(MAKECMDGOALS)),)
%.json: ;@:
endif

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

$(VENV)/.docs: $(VENV)/.base
	@$(PIP) --editable '.[server,v4l2,docs]'
	@touch $@

docs: $(VENV)/.docs
	$(VENV)/bin/python -m mkdocs build --strict --clean

diagrams: $(VENV)/.base
	@tools/apt-install graphviz
	$(VENV)/bin/python tools/diagrams.py

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

train-demo-model:
	@test -x .venv-train/bin/python || tools/make-venv .venv-train
	@.venv-train/bin/python -m pip install --quiet --editable '.[train]'
	.venv-train/bin/python -m tridetr_demo.training --out build/bundled-model
	.venv-train/bin/python -m tridetr_demo.training --out build/bundled-model --resolution 320 --steps 16000 --lr 5e-4
	.venv-train/bin/python -m tridetr_demo.training.publish build/bundled-model/model.onnx \
		model_repository/rfdetr_ort/1/model.onnx

lock:
	uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --no-annotate --no-header \
		--extra server --extra v4l2 --extra models --extra otel --extra apprise --extra dev --extra docs --extra bench -o constraints.txt pyproject.toml

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
