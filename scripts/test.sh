#!/usr/bin/env bash
# Runs the linter, the type check and the tests: bash scripts/test.sh [arguments for pytest]
set -u
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
install test requirements.txt tests/requirements.txt

status=0
echo '== ruff' && "$PYTHON" -m ruff check . && "$PYTHON" -m ruff format --check . || status=1
echo '== mypy' && "$PYTHON" -m mypy || status=1
echo '== pytest' && "$PYTHON" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@" || status=1
exit $status
