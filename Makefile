# make demo    a node of your own with a Django app on it, from nothing
# make test    everything that is tested; what .ci/run calls
# make bench   figures (GROUP=main, router, dynos or api for one group)
# make build   the programs, in target/release
SHELL := /bin/bash
.DEFAULT_GOAL := build

TARGET := $(or $(CARGO_TARGET_DIR),target)
export PATH := $(CURDIR)/target/tools/node_modules/.bin:$(PATH)

.PHONY: build setup setup-test setup-bench test demo bench lint

setup:
	@scripts/setup.sh run

setup-test:
	@scripts/setup.sh test

setup-bench:
	@scripts/setup.sh bench

build: setup
	cargo build --release -p ferroku-server -p ferroku-runtime -p ferroku-buildpacks --bins

# One command builds programs and tests, so that every dependency is built once. Tests of one program run side by side.
test: setup-test
	cargo test --release --workspace --no-fail-fast

demo: build
	@scripts/demo.sh

bench: setup-bench
	cargo build --release --workspace --bins --examples
	$(TARGET)/release/bench $(GROUP)

lint:
	cargo fmt --check
	cargo clippy --release --workspace --all-targets
