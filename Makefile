# Holdfast. `make help` lists the targets; each does all the set-up that it needs, and can be run again at any time.

MAKEFLAGS += --no-print-directory --no-builtin-rules
# The sbin directories, for libvirtd and e2fsprogs: Debian leaves them out of the PATH of users that are not root.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin

# Labs mount and unshare: what runs one is run as root, by sudo when need be, and leaves nothing of root's behind.
LAB := sh test/setup/as-root.sh
# Hundreds of agents, runners and commands start in a run: what Node made of their sources is kept for the next one.
MOCHA := env NODE_COMPILE_CACHE=$(CURDIR)/.cache/node mocha --reporter test/reporter/count.ts

# Two files at once, each in a process of its own and with hosts of its own. The emulated host, which has little time to
# spare, goes first, beside the unit tests; what takes long comes before what does not, so that both end together.
TWO_AT_ONCE := --parallel --jobs 2

EMULATED_TESTS := test/e2e/nas.test.ts
UNIT_TESTS := $(foreach package,common agent controller cli,'$(package)/src/**/*.test.ts')
ACCEPTANCE_TESTS := 'test/lab/**/*.test.ts' 'test/acceptance/**/*.test.ts'
LAB_TESTS := $(filter-out $(EMULATED_TESTS),$(shell find test/acceptance test/faults test/e2e test/lab test/docs -name '*.test.ts'))
LONG_TESTS := 'test/e2e-long/**/*.test.ts'

INSTALLED := node_modules/.installed
GENERATED := proto/gen/image.binpb
PROTO_FILES := $(shell find proto/holdfast -name '*.proto') buf.yaml buf.gen.yaml

.PHONY: help setup demo test acceptance test-long faults check bench soak clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo       back up, verify and restore a running guest, and prove what came back'
	@echo 'make test       set-up, check, unit and end-to-end tests; the last line counts them'
	@echo 'make acceptance the test plan of CloudStack, and the labs'
	@echo 'make test-long  every combination of features, and tests that wait for minutes'
	@echo 'make check      types, lint, format and the contract'
	@echo 'make faults     every fault at every stage, and a table of it: faults.json, docs/reliability.md'
	@echo 'make bench      one pass against the staged way and the bare tool, and a fleet; writes bench.json (PARTS=fleet)'
	@echo 'make soak       random work and random kills for an hour (HOLDFAST_SOAK_MINUTES, HOLDFAST_SEED)'
	@echo 'make setup      what the others need: npm packages, stubs, Debian packages, the guest image'
	@echo 'make clean      remove everything that was installed, generated or cached in the checkout'

setup: $(GENERATED)
	@node test/setup/setup.ts

demo: setup
	@$(LAB) node test/demo/demo.ts

test: setup check
	@$(LAB) $(MOCHA) $(TWO_AT_ONCE) $(EMULATED_TESTS) $(UNIT_TESTS) $(LAB_TESTS)

acceptance: setup
	@$(LAB) $(MOCHA) $(ACCEPTANCE_TESTS)

test-long: setup
	@$(LAB) $(MOCHA) $(LONG_TESTS)

# In shares: HOLDFAST_SHARD=1/4. To go on where a run ended: HOLDFAST_RESUME=1.
faults: setup
	@$(LAB) env HOLDFAST_FAULTS=all HOLDFAST_SHARD=$(or $(HOLDFAST_SHARD),1/1) HOLDFAST_RESUME=$(HOLDFAST_RESUME) \
		$(MOCHA) 'test/faults/everyStep.test.ts' 'test/faults/matrix/**/*.test.ts'
	@$(LAB) node test/faults/soak/soak.ts --minutes 5 $(if $(HOLDFAST_SEED),--seed $(HOLDFAST_SEED))

# In parts, each of which enters its figures into bench.json: PARTS='data rotation fleet catalogue'.
bench: setup
	@$(LAB) node test/bench/bench.ts $(PARTS)

soak: setup
	@$(LAB) node test/faults/soak/soak.ts --minutes $(or $(HOLDFAST_SOAK_MINUTES),60) $(if $(HOLDFAST_SEED),--seed $(HOLDFAST_SEED))

check: $(GENERATED)
	@npm run --silent types
	@npm run --silent lint
	@npm run --silent format -- --log-level warn
	@npm run --silent proto:lint
	@npm run --silent proto:breaking

clean:
	@if [ -e $(INSTALLED) ]; then $(LAB) node test/lab/sweep.ts; fi
	@rm -rf node_modules proto/gen .cache bench.json corpus.json faults.json soak.json

$(INSTALLED): package-lock.json package.json $(wildcard */package.json)
	@command -v npm >/dev/null || { echo 'npm is missing. Install it: apt-get install nodejs npm' >&2; exit 1; }
	@echo 'Installing npm packages into node_modules (nothing outside of it)'
	@npm ci --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

$(GENERATED): $(INSTALLED) $(PROTO_FILES)
	@npm run --silent generate
	@touch $@
