#!/usr/bin/env bash
# What needs a GPU, in one go: the tests marked `cuda`, and what a prune step costs there. Writes docs/cuda.md.
#
#   bash benchmarks/cuda.sh              # in the full environment, by .venv-full/bin/python
#   PYTHON=python bash benchmarks/cuda.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv-full/bin/python}
"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "cuda.sh: torch sees no GPU")'

page=docs/cuda.md
rest=$(mktemp)
trap 'rm -f "$rest"' EXIT
{
  echo '# On a GPU'
  echo
  echo "\`bash benchmarks/cuda.sh\`, $(date +%Y-%m-%d); $("$python" -c 'import torch
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")')."
  echo
  echo '## Tests'
  echo '```'
  "$python" -m pytest -q -m cuda tests
  echo '```'
  echo
  echo '## What a prune step costs'
  echo '```'
  "$python" benchmarks/prune_step.py --batch 64
  echo '```'
} | tee "$rest"
mv "$rest" "$page"
trap - EXIT
