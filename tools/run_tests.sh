#!/usr/bin/env bash
# Set up the full environment (mmcv is compiled once, 5-10 minutes) and run the style gates and all tests.
#
#   bash tools/run_tests.sh                  # everything
#   bash tools/run_tests.sh tests/test_x.py  # some tests
#   MMPRUNE_ENV=light bash tools/run_tests.sh   # in the light environment, with the newest torch
#
# Tests on real data need MMPRUNE_DATA, the folder that holds it; without it they are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${MMPRUNE_ENV:-full}
bash tools/setup_env.sh "$name"
bin=.venv-$name/bin
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
"$bin/ruff" check .
if [ "$name" = light ]; then
  "$bin/mypy"
fi
exec "$bin/python" -m pytest "$@"
