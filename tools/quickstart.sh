#!/usr/bin/env bash
# The main job end to end on real images, from a bare Python 3.11: set up the light environment, train a small ResNet on
# scikit-learn's handwritten digits, prune it to half of its FLOPs, finetune, test, export to ONNX, time it.
#
#   bash tools/quickstart.sh
#
# Everything goes to work_dirs/quickstart, safe to run again. Ends with one table and a picture of the structure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=work_dirs/quickstart/logs/install.log
mkdir -p "$(dirname "$log")"
echo "0. Set up the light environment in .venv-light (a minute or two the first time)"
bash tools/setup_env.sh light > "$log" 2>&1 || {
  status=$?
  tail -n 30 "$log" | sed 's/^/  | /' >&2
  echo "quickstart: the installation failed with status $status, log: $log" >&2
  exit "$status"
}
exec .venv-light/bin/python tools/quickstart.py "$@"
