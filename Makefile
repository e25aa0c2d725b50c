# The main jobs; each is a script of its own. README.md explains them.
#
# BUILD is the build folder, PREFIX where the programs are installed, SEEDS how
# many random seeds check-crash takes, DEPTH how many actions the histories of
# check-short have, TRACES how many recorded runs check-model checks, RUNS how
# many inputs check-fuzz takes. One test alone:
# TEST=NAME (check-unit, -iotests, -interop, -trace, -guest, -model),
# WORKLOAD=NAME (check-crash), DEFECT=NAME (check-mutations), INPUT=FILE
# (check-fuzz).

BUILD ?= build
PREFIX ?= /usr/local
export BUILD PREFIX DESTDIR

all:
	@scripts/build tools

demo: all
	@scripts/demo

# A short fuzz run: what a long one finds is for another day.
check: export RUNS ?= 500
check:
	@scripts/run-checks limits lint layers unit no-libraries iotests interop \
		trace model crash short fuzz series

# QEMU's checkpatch.pl, codespell, shellcheck, pylint and mypy over our files
lint:
	@scripts/run-checks lint

# Build, and run what is near to the files that have changed since the branch
# left main, or commit BASE; FILES names others.
quick:
	@scripts/run-checks layers lint quick

check-limits check-layers check-unit check-iotests check-interop check-trace \
check-model check-crash check-short check-fuzz check-series check-compat \
check-block check-mutations check-no-libraries check-guest check-deb check-endian \
check-storage:
	@scripts/run-checks $(@:check-%=%)

check-iotests-10.0: export BUILD := $(BUILD)/10.0
check-iotests-10.0:
	@./configure --qemu-suite=trixie
	@scripts/run-checks iotests

check-asan: export BUILD := $(BUILD)/asan
check-asan:
	@./configure --enable-sanitizers
	@scripts/run-checks unit interop own-iotests

check-threads: export BUILD := $(BUILD)/tsan
check-threads:
	@./configure --qemu-suite=trixie -- --enable-tsan
	@scripts/run-checks threads

# What the tests reach of the driver: BUILD/coverage/index.html, and what is not
# reached and has no reason. PARTS takes some of the tests, SEEDS (here: 1) is
# for the crash test; KEEP=1 adds to what an earlier run has counted.
coverage:
	@scripts/run-coverage

bench:
	@scripts/run-bench

# Random tests, for HOURS hours, from where docs/proof.md says that they are
soak:
	@scripts/run-soak

series:
	@scripts/make-series

# The distribution's packages with our driver in them, for SUITE; TOOLS=1 leaves
# out the emulator
deb:
	@scripts/build-deb

deb-libvirt:
	@scripts/build-deb libvirt

# SUITE=trixie takes libvirt 11.3; LIBVIRT_SOURCE=DIR a source of yours. PARTS
# takes some of what check-libvirt has: tests, series, smoke, fuzz.
check-libvirt:
	@scripts/run-checks libvirt

demo-libvirt:
	@scripts/demo-libvirt

series-libvirt:
	@scripts/make-series-libvirt

check-series-libvirt-build:
	@scripts/build-series-libvirt

check-series-build:
	@scripts/build-series

# Do tests look at what they are told?  TEST names some, as in
# tests/assertions/run; each is run once for each result in it, which is long.
check-assertions: all
	@tests/assertions/run $(TEST)

install: all
	@scripts/install

clean:
	rm -rf "$(BUILD)"

.PHONY: all demo check lint quick check-limits check-layers check-unit \
        check-no-libraries check-iotests \
        check-interop check-trace check-model check-crash check-short check-fuzz \
        check-series check-compat check-block check-mutations \
        check-iotests-10.0 check-asan \
        check-threads check-guest check-deb check-endian check-storage coverage bench \
        soak series deb deb-libvirt \
        check-series-build \
        check-libvirt demo-libvirt series-libvirt check-series-libvirt-build \
        check-assertions install clean
