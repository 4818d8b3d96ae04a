# One entry point; `make help` lists the targets. Every target sets up what it needs first (see .setup/setup.py).

SHELL := /bin/bash
PYTHON ?= python3
# The Python that `make gpu-check` races against, and options of tests/peers/gpu_check.py.
GPU_PYTHON ?= $(PYTHON)
GPU_CHECK ?= --compile
# The libclang wheel has no headers of its own; bindgen needs the compiler's.
export BINDGEN_EXTRA_CLANG_ARGS ?= -I$(shell $(or $(CC),cc) -print-file-name=include)
# All targets: tests ask some dependencies for more features, and one set of features means one build of each.
CARGO_BUILD := cargo build --release --workspace --all-targets
# JPEG=rust builds without libjpeg-turbo, and so without cmake; JPEG is then decoded slower, and to other pixels.
ifeq ($(JPEG),rust)
CARGO_BUILD += --no-default-features
endif

.PHONY: help setup build test test-all parity bench demo dist gpu-check lint fmt

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## bring libtorch, an MPI, libclang, cmake and nasm into .deps; no root; TORCH_CUDA=1 adds CUDA
	@$(PYTHON) .setup/setup.py

build: setup ## blip2, blip2-rank and the MPI piece, in target/release; JPEG=rust needs no cmake
	@$(CARGO_BUILD)

lint: setup ## formatting, clippy with warnings as errors
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

fmt: ## format the code
	cargo fmt --all

test: ## the tier that CI runs: set-up, lints, documentation, gates, every test that needs no peers
	@.ci/tier fast

test-all: ## adds Python peers, S3 and Azure servers, longer fuzzing, big corpora, more kills, all of exactness
	@.ci/tier all

parity: setup ## fixture tests; BLIP2_FIXTURES=DIR takes another set of the same layout
	@.ci/parity

bench: build ## data path, training step, captions, scores, checkpoints against their peers, alternating; writes docs/benchmarks/*.json
	@$(PYTHON) .setup/setup.py --python .setup/requirements-bench.txt
	@.deps/python-bench/bin/python tests/peers/bench_data.py --json docs/benchmarks/data-path.json
	@.deps/python-bench/bin/python tests/peers/bench_step.py --json docs/benchmarks/step.json
	@.deps/python-bench/bin/python tests/peers/bench_caption.py --json docs/benchmarks/caption.json
	@$(PYTHON) .setup/setup.py --python .setup/requirements-scores.txt
	@.deps/python-scores/bin/python tests/peers/bench_scores.py --json docs/benchmarks/scores.json
	@$(PYTHON) tests/peers/bench_checkpoint.py --json docs/benchmarks/checkpoint.json

demo: build ## both stages on this machine from generated data, with a report in runs/tiny
	@target/release/blip2 demo

gpu-check: ## on a machine with a GPU: parity, exactness, NCCL, steps raced against PyTorch; GPU_PYTHON has torch and transformers
	@TORCH_CUDA=1 $(PYTHON) .setup/setup.py
	@$(CARGO_BUILD)
	@$(GPU_PYTHON) tests/peers/gpu_check.py $(GPU_CHECK)

dist: build ## dist/blip2-*.tar.*: runs on nodes without network and compiler; TORCH_CUDA=1 adds what GPUs need
	@.ci/dist
