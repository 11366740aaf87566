#!/usr/bin/env bash
# Make one of the two certified environments in the repository: .venv-light or .venv-full.
#
#   bash tools/setup_env.sh light     # newest torch, no compiler, about a minute
#   bash tools/setup_env.sh full      # the whole OpenMMLab stack; builds mmcv once (5-10 minutes)
#
# Safe to run again: nothing is done while the pinned requirements are the ones installed; a
# changed setup.py or version installs mmprune alone anew.
# PYTHON names the interpreter (default python3.11).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${1:-}
case "$name" in
  light|full) ;;
  *) echo "usage: bash tools/setup_env.sh light|full" >&2; exit 2 ;;
esac
python=${PYTHON:-$(command -v python3.11 || command -v python3)} \
  || { echo "setup_env: no python3.11 found; set PYTHON to a Python 3.11" >&2; exit 1; }
venv=".venv-$name"
stamp="$venv/.installed"
wanted=$(cat "requirements/$name.txt" "requirements/$name-nodeps.txt" requirements/tests.txt \
             "requirements/constraints-$name.txt" | sha256sum | cut -d' ' -f1)
package=$(cat setup.py requirements.txt mmprune/version.py | sha256sum | cut -d' ' -f1)
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

install_requirements() {
  "$python" -c 'import sys; v = sys.version_info[:2]
sys.exit(0 if v == (3, 11) else f"setup_env: Python 3.11 is the certified version, this is {v[0]}.{v[1]}; set PYTHON")'
  rm -rf "$venv"
  "$python" -m venv "$venv"
  local constraints=(-c "requirements/constraints-$name.txt")

  if [ "$name" = light ]; then
    pip install -q "${constraints[@]}" setuptools wheel
  else
    # mmcv's setup imports torch, and its wheel is compiled here: no debug symbols, no CUDA.
    pip install -q "${constraints[@]}" 'setuptools<70' wheel ninja psutil
    pip install -q "${constraints[@]}" torch==2.0.1 torchvision==0.15.2 'numpy<2'
    echo "setup_env: mmcv is compiled unless pip has its wheel cached (5-10 minutes)" >&2
    CFLAGS=-g0 FORCE_CUDA=0 MMCV_WITH_OPS=1 pip install -q "${constraints[@]}" --no-build-isolation mmcv==2.0.1
  fi
  pip install -q "${constraints[@]}" -r "requirements/$name.txt" -r requirements/tests.txt
  pip install -q "${constraints[@]}" --no-deps -r "requirements/$name-nodeps.txt"
  echo "$wanted" > "$stamp"
}

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  install_requirements
fi
# mmprune itself: its command, its version and the links in mmprune/.mim
if [ "$(cat "$stamp-package" 2>/dev/null)" != "$package" ] || [ ! -e mmprune/.mim/model-index.yml ]; then
  pip install -q --no-deps --no-build-isolation -e .
  echo "$package" > "$stamp-package"
fi
