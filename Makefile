# Everything a developer or a visitor runs. Each target makes .venv first where it is missing.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
STUBS := proto/sparsilo/v1

.PHONY: demo test test-slow test-parts test-all test-demo test-families test-images house dashboards schedules fuzz adversary hostile stories mutations bench-masking bench-streaming bench-intake bench-load bench-cohort bench-cost-curve bench-privacy-tax bench-prune-speed bench-prune-memory bench-quality bench-real bench-poisoning bench-privacy privacy-audit lint docs proto clean
.DELETE_ON_ERROR:

demo: .venv/.ok ## prune a small model over four silos and print what came of it
	$(BIN)/python -m bench.demo.run --out demo-out

test: .venv/.ok ## all tests but the slow ones and those that need more than Python, with branch coverage of crypto/
	$(PYTEST) --cov --cov-report=term --cov-fail-under=95

test-slow: .venv/.ok ## tests of tens of seconds each: many silos, every command of a first federation
	$(PYTEST) -m "slow and not parts"

test-parts: .venv/.ok ## tests with a real Prometheus, proxy, PostgreSQL, false clocks and bad lines, which root gets from Debian
	.ci/parts
	$(PYTEST) -m parts

test-all: test test-slow test-parts ## every test but those that take minutes each

test-demo: .venv/.ok ## run the demo and hold what it prints against what the README says of it
	$(BIN)/python -m pytest -m minutes tests/integration/test_demo.py

test-families: .venv/.ok ## every model family through `aggregator local`, a process a silo
	$(BIN)/python -m pytest -m minutes tests/integration/test_federated_families.py

.PHONY: test-types
test-types: .venv/.ok ## every model_type of transformers, pruned and held against a second calculation (2 to 4 minutes on 2 cores; ARGS=--write-docs: into docs/model-types.md)
	$(PYTEST) -m minutes tests/model_types $(ARGS)

test-images: .venv/.ok ## both images, and a round in containers apart from each other (root; see deploy/images/README.md)
	$(BIN)/python -m pytest -m minutes tests/images

house: .venv/.ok ## measure folders, imports, lengths and repetition (BASE=REVISION: beside those of a git revision)
	@$(BIN)/python -m bench.house $(addprefix --at ,$(BASE))

dashboards: .venv/.ok ## write the Grafana dashboards anew
	$(BIN)/python tests/monitoring/make_dashboards.py

.PHONY: kills
kills: .venv/.ok ## aggregator and agents are killed all over 300 runs, and each before every one of its file operations (50 minutes)
	$(BIN)/python -m pytest -m minutes tests/aggregator/runs/test_ended_early.py tests/kills/test_kills.py

.PHONY: soak
soak: .venv/.ok ## 200 runs one after another: memory, descriptors and files stay what they were (20 minutes)
	$(BIN)/python -m pytest -m minutes tests/kills/test_soak.py

schedules: .venv/.ok ## 5 000 random schedules of the simulated world
	$(PYTEST) -m "" tests/scenarios/test_schedules.py

fuzz: .venv/.ok ## every decoder over inputs that coverage guides (SECONDS=60 each, half an hour in all); they go to fuzz-found/
	@$(BIN)/python -m pip install -q --no-deps -r tests/fuzz/requirements.txt
	@PYTHONPATH=tests $(BIN)/python -m fuzz.coverage_guided --seconds $(or $(SECONDS),60)

adversary: .venv/.ok ## an adversary searches a million sequences of rounds for what tells of one silo
	$(PYTEST) -m "" tests/adversary

hostile: .venv/.ok ## one aggregator and whatever somebody who reaches its port may do: do honest silos finish? (10 minutes)
	$(BIN)/python -m pytest -m minutes tests/hostile

stories: .venv/.ok ## write the stories of tests/scenarios/stories/ anew; git diff then shows what goes otherwise
	$(BIN)/python -m pytest tests/scenarios/test_stories.py --rewrite-stories

mutations: .venv/.ok ## break the code in known ways, each of which must fail a test
	PYTHONPATH=tests $(BIN)/python -m support.mutations

bench-masking: .venv/.ok ## measure masking against the bare primitives and Flower's SecAgg+; prints one JSON document
	@$(BIN)/python -m pip install -q --no-deps -r bench/requirements.txt
	@$(BIN)/python -m bench.masking

bench-streaming: .venv/.ok ## stream 7 * 10^9 weights through a round: memory and CPU time (25 GB of disk, a quarter of an hour)
	@$(BIN)/python -m bench.streaming

bench-intake: .venv/.ok ## take uploads in, beside a server that only receives them: bytes by CPU second (5 minutes)
	@$(BIN)/python -m bench.intake

bench-load: .venv/.ok ## a round of 10 real agents, and one of 200: does everybody finish, and in what memory? (20 minutes)
	@$(BIN)/python -m bench.load

bench-cohort: .venv/.ok ## a round of 200 silos, 20 of them dropped: CPU seconds and bytes (SUITE=fips: in the other suite)
	@$(BIN)/python -m bench.cohort --suite $(or $(SUITE),default)

bench-cost-curve: .venv/.ok ## what a round costs a silo, by silos and weights
	@$(BIN)/python -m bench.cost_curve

bench-privacy-tax: .venv/.ok ## wall time of a whole run on the demo model, with secure aggregation and without
	@$(BIN)/python -m bench.privacy_tax

bench-prune-speed: .venv/.ok ## pruning against two bare forward passes through the same blocks (DEVICE=cuda: against the matrix rate)
	@$(BIN)/python -m bench.prune_speed --device $(or $(DEVICE),cpu)

bench-prune-memory: .venv/.ok ## peak memory of pruning and of a whole local run, on 12 and on 48 blocks
	@$(BIN)/python -m bench.prune_memory

bench-quality: .venv/.ok ## perplexity of every way of pruning together, beside the papers' and none (3 hours; OPTIONS as in bench-real)
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m bench.quality $(OPTIONS)

bench-real: .venv/.ok ## the same of a real pretrained model, which is downloaded (a day; OPTIONS="--ways votes --ratios 0.5": a part)
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m bench.real $(OPTIONS)

bench-privacy: .venv/.ok ## perplexity by epsilon and by records of a silo (hours; rows are kept, ARGS choose a part)
	$(BIN)/python -m bench.privacy_curve $(ARGS)

privacy-audit: .venv/.ok ## how far opened sums tell whether a text is in them, and does noise keep its promise? (an hour; ARGS=--write-docs: into docs/privacy-audit.md)
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m bench.privacy_audit $(ARGS)
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m bench.one_run_audit $(ARGS)

bench-poisoning: .venv/.ok ## how much one lying silo can worsen the result, for each release kind
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m bench.poisoning $(ARGS)
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m bench.poisoned_energies $(ARGS)

lint: .venv/.ok ## formatting, lint and types, as CI runs them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/.ok ## the documents as a site in site/; a link that leads nowhere is an error
	$(BIN)/python -m mkdocs build --strict --quiet

proto: .venv/.ok ## regenerate the committed stubs (a test fails when they are stale)
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto $(STUBS)/*.proto

clean:
	rm -rf .venv demo-out build dist site .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
