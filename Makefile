# make demo | test | bench | fuzz: each installs what it needs on a bare Debian 12 with Rust (tests/install.sh says what).

FUZZ_SECONDS ?= 300

.PHONY: build install demo test lint bench fuzz

build: install
	cargo build --release -p supervisor

install:
	@tests/install.sh

# Four program pairs under sipbox, with the SIP that made each possible.
demo: build
	@tests/demo.sh

# Tests of programs, which run in both ways of keeping them apart. The others (harness, lab, netcheck, turn, web) run none,
# but the hub, `sipbox netcheck` or the tools of the tests themselves.
APART = programs datagrams hub_page faults foreign shows kamailio interfaces attacks unix conformance cpython hub sipp flows streams peers presence agents \
        datachannel game glare locate moving nats outbound paths tls clocks

# Everything but the long runs; then the program pairs once more, over a real Kamailio with digest authentication, and
# again over encrypted flows; and every test of programs in a network of the program's own.
test: build lint
	tests/programs/build.sh
	@tests/rounds.sh $(APART)

lint: install
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --profile tests -- -D warnings

# One table: sipbox against native, its flows against other tunnels, its hub against Kamailio, its parser against others, measured in turns.
bench: build
	@tests/bench/install.sh
	@cargo run --quiet --release -p tests --bin sipbox-bench
	@cargo bench --quiet -p sipcore --bench parse

# Every fuzz target for FUZZ_SECONDS.
fuzz: install
	@tests/fuzz.sh $(FUZZ_SECONDS)
