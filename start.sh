#!/usr/bin/env bash
# Sets up .venv from the hash-locked requirements and runs the gateway from it. Needs Python >= 3.11 with venv and pip.
#
#   ./start.sh                        the gateway, with the built-in demo when no service is configured
#   ./start.sh server|check|routes …  a command of the gateway
#   ./start.sh test [pytest args]     lint, types, import rules, tests (the first time with a build of Temporal's server)
#   ./start.sh bench [name …]         benchmarks
#   ./start.sh setup                  set-up alone
#
# The set-up is done when a stamp in .venv holds the lock's checksum; it is written last, so that an interrupted
# set-up is done again. Paths in settings are relative to this directory.
set -euo pipefail

fail() {
    printf 'start.sh: %s\n' "$1" >&2
    exit 2
}

script="${BASH_SOURCE[0]}"
while [ -L "$script" ]; do
    link="$(readlink "$script")"
    case "$link" in
        /*) script="$link" ;;
        *) script="$(dirname "$script")/$link" ;;
    esac
done
cd "$(dirname "$script")" || fail "cannot enter the directory of $script"
python=.venv/bin/python

checksum() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum <"$1"
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256 <"$1"
    else
        cksum <"$1"
    fi
}

# A python3 that is new enough; $PYTHON names another one.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (python3 or \$PYTHON): install one"
}

# set_up LOCK: installs requirements/LOCK.txt unless that was done. The test lock holds the base lock too.
set_up() {
    local lock="requirements/$1.txt" stamp=".venv/.installed-$1" sum found
    sum="$(checksum "$lock")"
    if [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ]; then
        return
    fi
    printf 'start.sh: installing %s into .venv\n' "$lock" >&2
    rm -f "$stamp"
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
        || ! "$python" -m pip --version >/dev/null 2>&1; then
        found="$(find_python)"
        rm -rf .venv
        "$found" -c 'import venv, ensurepip' >/dev/null 2>&1 \
            || fail "$found has no venv or pip: install them (on Debian and Ubuntu: python3-venv)"
        "$found" -m venv .venv || fail "$found -m venv .venv failed"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$lock" \
        || fail "installing $lock failed: see pip's message above; run the same command again"
    printf '%s\n' "$sum" >"$stamp"
    if [ "$1" = test ]; then
        checksum requirements/base.txt >.venv/.installed-base
    fi
}

# Tests commit to databases thousands of times: in memory, where there is such a place that runs programs, no disk
# that stalls makes them late.
use_memory() {
    local probe="/dev/shm/gateway-test-$$"
    if [ -z "${PYTEST_DEBUG_TEMPROOT-}" ] && printf '#!/bin/sh\n' 2>/dev/null >"$probe"; then
        chmod +x "$probe"
        if "$probe" 2>/dev/null; then
            export PYTEST_DEBUG_TEMPROOT=/dev/shm
        fi
        rm -f "$probe"
    fi
}

# The Temporal server that tests run: found, or built once for this user. That takes minutes, which no test has.
find_temporal() {
    local program
    if program="$("$python" -m gateway.jobs.devserver)" && [ -n "$program" ]; then
        export TEMPORAL_CLI="$program"
    else
        printf 'start.sh: no temporal program: tests that need one are skipped\n' >&2
    fi
}

run_tests() {
    use_memory
    find_temporal
    local pure="gateway/edge/message.py,gateway/edge/headers.py,gateway/edge/reading.py,gateway/routing/table.py,gateway/routing/balance.py,sse/event.py,sse/ring.py,sse/publication.py,sse/idempotency.py"
    "$python" -m ruff check --quiet .
    "$python" -m ruff format --check --quiet . || fail "some files are not formatted: .venv/bin/ruff format ."
    "$python" -m mypy --strict gateway sse
    "$python" -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo
    if [ "$#" -gt 0 ]; then
        exec "$python" -m pytest "$@"
    fi
    # A worker that a hanging test ended is a failure: with a new one xdist would wait for ever.
    "$python" -m pytest --numprocesses auto --max-worker-restart 0 --dist loadfile --cov --cov-report=
    "$python" -m coverage report --fail-under=90
    "$python" -m coverage report --include="$pure" --fail-under=100
}

command="${1-}"
case "$command" in
    setup)
        set_up base
        ;;
    test)
        shift
        set_up test
        run_tests "$@"
        ;;
    bench)
        shift
        set_up base
        exec "$python" -m bench "$@"
        ;;
    "" | -*)
        set_up base
        TEMPORAL_ADDRESS="${TEMPORAL_ADDRESS-embedded}" exec "$python" -m gateway server --demo "$@"
        ;;
    *)
        set_up base
        exec "$python" -m gateway "$@"
        ;;
esac
