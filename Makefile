# make demo    a node of your own with a Django app on it, from nothing
# make test    everything that is tested; what .ci/run calls
# make bench   figures (GROUP=main for one group)
# make build   the programs, in target/release
SHELL := /bin/bash
.DEFAULT_GOAL := build

TARGET := $(or $(CARGO_TARGET_DIR),target)
export PATH := $(CURDIR)/target/tools/node_modules/.bin:$(PATH)

# dyno-init and slug-compiler are static, so that no library of a stack matters to them.
STATIC_FLAGS := -C target-feature=+crt-static -C relocation-model=static

.PHONY: build setup setup-test test demo bench lint

setup:
	@scripts/setup.sh run

setup-test:
	@scripts/setup.sh test

build: setup
	cargo rustc --quiet --release -p ferroku-runtime --bin dyno-init -- $(STATIC_FLAGS)
	cargo rustc --quiet --release -p ferroku-buildpacks --bin slug-compiler -- $(STATIC_FLAGS)
	@mkdir -p $(TARGET)/release/static
	@for program in dyno-init slug-compiler; do \
		cmp -s $(TARGET)/release/$$program $(TARGET)/release/static/$$program || \
		{ cp $(TARGET)/release/$$program $(TARGET)/release/static/.$$program && \
		  mv $(TARGET)/release/static/.$$program $(TARGET)/release/static/$$program; }; done
	cargo build --release -p ferroku-server --bin ferrokud

# Tests of one program run side by side; those that start whole nodes take turns by a lock of their own (testkit).
test: setup-test build
	cargo test --release --workspace --no-fail-fast

demo: build
	@scripts/demo.sh

bench: setup-test build
	cargo build --quiet --release -p ferroku-testkit --bin bench
	$(TARGET)/release/bench $(GROUP)

lint:
	cargo fmt --check
	cargo clippy --release --workspace --all-targets
