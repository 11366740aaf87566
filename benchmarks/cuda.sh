#!/usr/bin/env bash
# What needs a GPU, in one go: the tests marked `cuda`, what pruning costs there, and networks cut there. Writes docs/cuda.md.
#
#   bash benchmarks/cuda.sh                            # in the full environment, by .venv-full/bin/python
#   PYTHON=python bash benchmarks/cuda.sh
#   MMPRUNE_DATA=data bash benchmarks/cuda.sh          # with the runs that need data, those whose data is there
#   DEVICE=cpu bash benchmarks/cuda.sh PAGE.md         # try this script without a GPU; the tests are left out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv-full/bin/python}
device=${DEVICE:-cuda}
page=${1:-docs/cuda.md}
if [ "$device" = cuda ]; then
  "$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "cuda.sh: torch sees no GPU")'
fi

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# TITLE COMMAND: a heading, the command, and what it prints; whether it failed is kept, and the others go on.
section() {
  echo
  echo "## $1"
  echo "\`$2\`"
  echo '```'
  if ! bash -c "${2/#python/$python}" 2> "$results/errors" | grep -v '^  round '; then
    tail -5 "$results/errors"
    echo "$1" >> "$results/failed"
  fi
  echo '```'
}

# FILE TITLE COMMAND: a section, where the file is there.
section_with() {
  if [ -e "$1" ]; then section "$2" "$3"; else echo "cuda.sh: no $1, so nothing of: $2" >&2; fi
}

sweep="--device $device --results $results/sweep.jsonl --memory 1000"
{
  echo '# On a GPU'
  echo
  echo "\`bash benchmarks/cuda.sh\`, $(date +%Y-%m-%d); $("$python" -c "import sys
sys.path.insert(0, 'benchmarks')
import torch
from computing import Computing
print(f'{Computing(\"$device\").name}, torch {torch.__version__}, CUDA {torch.version.cuda}')")."
  if [ "$device" = cuda ]; then section 'Tests' 'python -m pytest -q -m cuda tests'; fi
  section 'What a prune step costs' "python benchmarks/prune_step.py --device $device --batch ${BATCH:-64}"
  if [ "$device" = cuda ]; then  # mmengine's AMP needs one
    section 'The same in bfloat16 and channels_last' \
      "python benchmarks/prune_step.py --device $device --batch ${BATCH:-64} --amp --memory-format channels_last"
  fi
  section 'Tracing' "python benchmarks/trace.py --device $device --models resnet50 --repeats 3"
  section 'Masked and cut, in float64' \
    "python benchmarks/sweep_torchvision.py $sweep --only resnet18 mobilenet_v2 densenet121 vit_b_16 swin_t"
  section_with work_dirs/resnet18-narrow_cifar10/epoch_6.pth 'A prune run beside dense steps' \
    "python benchmarks/prune_run.py --device $device --memory-format channels_last"
  section_with work_dirs/resnet18-narrow_cifar10/epoch_6.pth 'Criteria and repairs' \
    "python benchmarks/repair_table.py --network resnet18-narrow --device $device --only 'GroupFisher *' --shares 0.5 \
--results $results/repair.jsonl; cat $results/repair.jsonl"
  section_with "${MMPRUNE_DATA:-data}/mobilenet_v2-b0353104.pth" 'MobileNetV2 cut and repaired in rounds' \
    "python benchmarks/repair_imagenet_sample.py --device $device --shares 0.92 0.85 --work $results/rounds"
  section_with work_dirs/retinanet_r18_fpn_bccd/epoch_20.pth 'A detector cut and repaired' \
    "python benchmarks/repair_detector.py work_dirs/retinanet_r18_fpn_bccd/epoch_20.pth --device $device \
--only GroupFisher --results $results/detector.jsonl"
} | tee "$results/page.md"
mv "$results/page.md" "$page"
if [ -e "$results/failed" ]; then
  echo "cuda.sh: failed: $(paste -sd, "$results/failed")" >&2
  exit 1
fi
