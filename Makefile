# Everything a newcomer runs. Each target sets itself up: a virtual environment in .venv, installed once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NATIVE := setup.py $(wildcard model/fused/*.[ch] model/native/*.[ch] model/native/*.inc)
DATA   ?= ../shared/data
RUNS   ?= runs
WORKERS ?= 2

.PHONY: help install kernels demo test test-kernels check docs results bench bench-gpu peers reproduce serving-cost training-speed bench-prompts quality-beauty quality-kuairand http-equals-offline verdict-study hot-swaps canary faults filters kills warm-start forms interleaving-study export-lists diversity never-again replay fresh-replicas soak fuzz schemathesis sbom audit

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# a change of the C code installs again, which compiles it
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $@

install: $(STAMP) ## virtual environment with the package and the tools

demo: $(STAMP) ## synthetic logs -> train both arms -> bundles -> serve -> one answer of each arm
	$(BIN)/recall demo

test: $(STAMP) ## the whole test suite, in two processes (WORKERS=...)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

kernels: $(STAMP) ## Triton, whose interpreter runs the CUDA kernels on a CPU: with it `make test` tests them too
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[kernels]'

test-kernels: kernels ## the CUDA kernels in Triton's interpreter on the CPU (Triton: 190 MB to fetch, 1 GB on disk)
	$(BIN)/pytest tests/model/kernels tests/model/device tests/index/test_exact_device.py

check: $(STAMP) ## ruff, mypy strict, the house rules, and the generated docs against the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_house.py tests/test_import_rule.py tests/docs
	$(BIN)/python -m docs.generate --check

docs: $(STAMP) ## write the generated pages anew: the reference from the code, the results from the measured rows
	$(BIN)/python -m docs.generate

results: docs ## docs/results.md from benchmarks/results/quality.jsonl; trains nothing

# The studies below take minutes each, on data that does not come with the project (DATA=...).
bench-prompts: $(STAMP) ## prompt expansion: key/value cache against recomputing, identical items
	$(BIN)/python -m benchmarks.prompts

serving-cost: $(STAMP) ## encode and search of each system against one plain decoder
	$(BIN)/python -m benchmarks.serving_cost

training-speed: $(STAMP) ## an epoch against the plain fp32, padded, unchunked way (after quality-beauty)
	$(BIN)/python -m benchmarks.training_speed --data $(RUNS)/beauty/data

bench-gpu: $(STAMP) ## the GPU path on a GPU: correctness, graphs, engine, index, roofline
	$(BIN)/python -m benchmarks.gpu --http --output $(RUNS)/gpu.jsonl

bench: $(STAMP) ## recall bench http: the highest rate within a p99 of 30 ms, on this machine
	$(BIN)/recall bench http --output $(RUNS)/bench

peers: ## against a plain FastAPI handler, Ray Serve and BentoML, in an environment of their own
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet -c constraints.txt -e '.[cpu,bench]' -r benchmarks/peers/requirements.txt
	.venv-peers/bin/python -m benchmarks.peers.compare

reproduce: $(STAMP) ## the table of systems, paper's recipe and ours, 3 seeds: hours; resumable (DATA=...)
	$(BIN)/recall reproduce --data $(DATA) --recipe both --work $(RUNS)

define quality # data set, arm
	$(BIN)/recall train $(2) --recipe $(1) --data $(RUNS)/$(1)/data --output $(RUNS)/$(1)/$(2)
	$(BIN)/recall build --checkpoint $(RUNS)/$(1)/$(2) --output $(RUNS)/$(1)/bundles/$(2)
	$(BIN)/recall evaluate --bundle $(RUNS)/$(1)/bundles/$(2) --data $(RUNS)/$(1)/data
endef

quality-beauty: $(STAMP) ## RecGPT on Amazon Beauty, the paper's protocol
	$(BIN)/recall prepare --format s3rec --input $(DATA)/s3rec/Beauty.txt --output $(RUNS)/beauty/data
	$(call quality,beauty,recgpt)

quality-kuairand: $(STAMP) ## RecGPT and ComiRec on KuaiRand-Pure, split by time
	$(BIN)/recall prepare --format kuairand --input $(DATA)/kuairand_pure --output $(RUNS)/kuairand/data
	$(call quality,kuairand,recgpt)
	$(call quality,kuairand,comirec)

http-equals-offline: $(STAMP) ## 1,000 users over HTTP get the lists of the offline evaluation (after quality-kuairand)
	$(BIN)/python -m benchmarks.http_equals_offline --data $(RUNS)/kuairand/data \
		--arm recgpt=$(RUNS)/kuairand/bundles/recgpt --arm comirec=$(RUNS)/kuairand/bundles/comirec

hot-swaps: $(STAMP) ## 50 bundles swapped under load, in one process and with two HTTP processes: every answer checked
	$(BIN)/python -m benchmarks.hot_swaps --output benchmarks/results/hot_swaps.jsonl

canary: $(STAMP) ## bad canaries under load: the seconds until each is rolled back by itself; 3 minutes, needs no data
	$(BIN)/python -m benchmarks.canary --output benchmarks/results/canary.jsonl

faults: $(STAMP) ## fault and abuse tests with their criteria: benchmarks/results/faults.json
	$(BIN)/python -m benchmarks.faults --output benchmarks/results/faults.json

MINUTES ?= 60
soak: $(STAMP) ## a random fault a minute under load, both layouts: what no fault explains, and what grows (MINUTES=...)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fault_soak --minutes $(MINUTES) --output benchmarks/results/fault_soak.jsonl

fuzz: $(STAMP) ## a million spoilt inputs of every parser and 100,000 spoilt logs: 20 minutes of one core; needs no data
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz_parsers --output benchmarks/results/fuzz.jsonl
	POLARS_MAX_THREADS=1 $(BIN)/python -m benchmarks.fuzz_logs --output benchmarks/results/fuzz_logs.jsonl

schemathesis: $(STAMP) ## ten minutes of schemathesis on the OpenAPI document of a running service
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.schemathesis_run --output benchmarks/results/schemathesis.jsonl

TOOLS := .venv-tools/.installed
$(TOOLS):
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit
	touch $@

sbom: $(STAMP) $(TOOLS) ## every installed package with version and licence, as CycloneDX: runs/sbom.json
	mkdir -p $(RUNS)
	.venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o $(RUNS)/sbom.json $(BIN)/python
	@$(PYTHON) -c "import json; print(len(json.load(open('$(RUNS)/sbom.json'))['components']), 'components in $(RUNS)/sbom.json')"

audit: $(STAMP) $(TOOLS) ## known faults of the installed packages, by PyPI's advisories; says so where they cannot be reached
	$(BIN)/python -m benchmarks.audit --pip-audit .venv-tools/bin/pip-audit

filters: $(STAMP) ## filtered searches of 100,000 and 1,000,000 items against exact ones: 5 minutes; needs no data
	$(BIN)/python -m benchmarks.filters --output benchmarks/results/filters.jsonl

warm-start: $(STAMP) ## a warm start on six more days of KuaiRand against a whole training (after quality-kuairand)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.warm_start --data $(RUNS)/kuairand/data

forms: $(STAMP) ## K = 0 to 6 and m : n with argmax and soft items, tuned for an epoch each: 20 minutes of a core (after quality-kuairand)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.forms --recipe kuairand --checkpoint $(RUNS)/kuairand/recgpt \
		--data $(RUNS)/kuairand/data --stages $(RUNS)/kuairand/tuned --output benchmarks/results/forms.jsonl

kills: $(STAMP) ## kill -9 at 100 random moments of prepare, train and build: the old folder or the new one
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.kills --output benchmarks/results/kills.jsonl

export-lists: $(STAMP) ## the rate of recall export beside the engine's, and 20 kills that must leave the same file
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.export_lists --output benchmarks/results/export_lists.json

diversity: $(STAMP) ## maximal marginal relevance, 100 of 500: microseconds, and the lists against the definition's
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.diversity --output benchmarks/results/diversity.jsonl

never-again: $(STAMP) ## 100,000 answers with not_shown, in both layouts: no item twice, none hidden or watched
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.never_again --output benchmarks/results/never_again.jsonl

fresh-replicas: $(STAMP) ## new items on two replicas: seconds until they are listed and gone, and inserts beside recalls
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fresh_replicas --output benchmarks/results/fresh_replicas.jsonl

replay: $(STAMP) ## the online A/B test with KuaiRec's and KuaiRand's users: half an hour of training, then as long again (DATA=...)
	OMP_NUM_THREADS=1 $(BIN)/recall experiment replay kuairec --data $(DATA) --work $(RUNS)/replay/kuairec \
		--dropped 0,50,200 --salts 10000 --output benchmarks/results/replay.jsonl
	OMP_NUM_THREADS=1 $(BIN)/recall experiment replay kuairand --data $(DATA) --work $(RUNS)/replay/kuairand \
		--sessions 3 --users-a-request 64 --salts 1000 --output benchmarks/results/replay.jsonl

verdict-study: $(STAMP) ## error rates of the A/B verdict on simulated experiments: a minute; needs no data
	$(BIN)/python -m benchmarks.verdict_study

interleaving-study: $(STAMP) ## interleaving against the truth on KuaiRec's complete matrix: a minute (DATA=...)
	$(BIN)/python -m benchmarks.interleaving_study --data $(DATA)/kuairec/kuairec_fully_observed.npz
