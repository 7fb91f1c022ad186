# `make serve` and `make test` do all the set-up that they need; `make help` lists the verbs.
PYTHON ?= python3
VENV ?= .venv
MODEL ?= minilm
HOST ?= 127.0.0.1
PORT ?= 8000
URL ?= http://127.0.0.1:$(PORT)
API_KEY_FILE ?=
TLS_CERTIFICATE ?=
TLS_KEY ?=
FINGERPRINT ?=
DEVICE ?=
RECORD ?=
FORCE ?=
TESTS ?=
ARGS ?=

BIN := $(VENV)/bin
SETUP := $(PYTHON) deploy/install.py --venv $(VENV)
KEYS := $(if $(API_KEY_FILE),--api-key-file $(API_KEY_FILE))
TLS := $(if $(TLS_CERTIFICATE),--tls-certificate $(TLS_CERTIFICATE)) $(if $(TLS_KEY),--tls-key $(TLS_KEY))
PIN := $(if $(FINGERPRINT),--fingerprint $(FINGERPRINT))
ON := $(if $(DEVICE),--device $(DEVICE))

.PHONY: help install serve stop reload verify deploy argv check test test-clients bench
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: MODEL=$(MODEL) HOST=$(HOST) PORT=$(PORT) API_KEY_FILE=F TLS_CERTIFICATE=F TLS_KEY=F URL=$(URL) FINGERPRINT=F DEVICE=cpu|gpu PYTHON=$(PYTHON) VENV=$(VENV)"

install: ## make the environment: vLLM for this machine, and all that the server needs
	@$(SETUP)

serve: install ## serve MODEL (a config's name, a YAML, a Hugging Face id, a folder); ARGS="--log-format json" and the like
	@$(BIN)/python -m serve up $(MODEL) --host $(HOST) --port $(PORT) $(KEYS) $(TLS) $(ON) $(ARGS)

stop: install ## stop the server on PORT
	@$(BIN)/python -m serve stop --port $(PORT)

reload: install ## have the server on PORT read its keys and certificate again and restart its engines one by one
	@$(BIN)/python -m serve reload --port $(PORT)

verify: install ## check a running server (URL=) against reference scores of MODEL (RECORD=1 writes them, FORCE=1 over old ones)
	@$(BIN)/python -m clients.verify $(MODEL) --url $(URL) $(KEYS) $(PIN) $(if $(RECORD),--record) $(if $(FORCE),--force)

deploy: ## rent a GPU on Vast.ai and serve MODEL there (ARGS="--ttl 4h --max-price 0.40"; --help has the rest)
	@$(SETUP) --only deploy
	@$(BIN)/python -m deploy vast up $(MODEL) $(ARGS)

argv: install ## print the vLLM command that MODEL stands for
	@$(BIN)/python -m serve argv $(MODEL) $(ON)

check: ## lint, format and types
	@$(SETUP) --dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: ## all tests, those with the real vLLM too (TESTS= a part of them)
	@$(SETUP) --dev
ifdef TESTS
	@$(BIN)/python -m pytest $(TESTS)
else # vLLM takes all cores, and what measures must have them
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not vllm and not alone" tests
	@$(BIN)/python -m pytest -m "vllm or alone" tests
endif

test-clients: ## the SDKs and platforms that people have, against the real server (once: 2 minutes to install them)
	@$(SETUP) --dev
	@$(BIN)/python -m tests.clients.environments
	@$(BIN)/python -m pytest tests/clients

bench: ## print every figure of benchmarks/ (an hour and a half, and once 4 GB of others' packages; ARGS="--out FOLDER" for a report)
	@$(SETUP) --dev
	@$(BIN)/python -m benchmarks all $(ARGS)
