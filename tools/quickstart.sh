#!/usr/bin/env bash
# The main job end to end on real images, from a bare Python 3.11: set up the light environment, train a small ResNet on
# scikit-learn's handwritten digits, prune it to half of its FLOPs, finetune, test, export to ONNX, time it.
#
#   bash tools/quickstart.sh
#
# Everything goes to work_dirs/quickstart, safe to run again. Ends with one table and a picture of the structure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -f .venv-light/.installed ]; then
  echo 'Installing the light environment into .venv-light (1 to 3 minutes)'
fi
bash tools/setup_env.sh light
exec .venv-light/bin/python tools/quickstart.py "$@"
