#!/usr/bin/env bash
# Set up an environment and run in it the style gates and its tests, in as many processes as there are cores.
#
#   bash tools/run_tests.sh                        # everything, in the full environment
#   bash tools/run_tests.sh light                  # in light: the core, and mypy
#   bash tools/run_tests.sh legacy                 # in legacy: the files named below
#   bash tools/run_tests.sh benchmarks             # in benchmarks: models of timm and transformers, named below
#   bash tools/run_tests.sh full tests/test_x.py   # some tests; any arguments of pytest
#
# Tests on real data need MMPRUNE_DATA, the folder that holds it; without it they are skipped.
# PROCESSES=0 runs all tests in one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What differs between versions of torch, mmengine and onnxruntime: tracing, cutting, files, resuming, exporting.
legacy=(tests/graph tests/units/attention tests/group_fisher tests/models tests/deploy tests/units/test_cut.py
        tests/units/test_torchvision.py tests/units/test_detection_units.py tests/engine/test_resume.py
        tests/engine/test_distributed.py tests/journeys/test_digits_journey.py tests/journeys/test_detection_runs.py
        tests/commands/test_package.py)
# What needs timm or transformers, documents among it.
libraries=(tests/units/attention/test_timm.py tests/units/attention/test_huggingface.py tests/integrations
           tests/test_docs.py -k 'timm or huggingface or transformers or integrations')

name=full
case "${1:-}" in
  full|light|legacy|benchmarks) name=$1; shift ;;
esac
bash tools/setup_env.sh "$name"
bin=.venv-$name/bin
[ "$name" = benchmarks ] || "$bin/ruff" check .  # which stands in full
case "$name" in
  light) "$bin/mypy"; set -- -m 'not full and not data' "$@" ;;
  legacy) [[ " $* " == *" tests/"* ]] || set -- "${legacy[@]}" "$@" ;;
  benchmarks) [[ " $* " == *" tests/"* ]] || set -- "${libraries[@]}" "$@" ;;
esac
processes=${PROCESSES:-$(nproc)}  # counted here: nproc says no more than OMP_NUM_THREADS
# one thread in each process: tests of one file stay together, for they share what they train
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$bin/python" -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder "$@"
