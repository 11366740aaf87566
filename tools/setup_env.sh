#!/usr/bin/env bash
# Make one of the certified environments in the repository: .venv-full, .venv-light, .venv-legacy or .venv-benchmarks.
#
#   bash tools/setup_env.sh full      # all of OpenMMLab on today's torch; compiles mmcv once (5 to 20 minutes)
#   bash tools/setup_env.sh light     # mmcls alone: no compiler, no torchvision, about a minute
#   bash tools/setup_env.sh legacy    # all of OpenMMLab on torch 2.0.1; compiles mmcv once
#   bash tools/setup_env.sh benchmarks  # full, with timm, transformers and the peers on top of it; half a minute more
#
# Safe to run again: nothing is done while the pinned requirements are the ones installed; a
# changed setup.py or version installs mmprune alone anew. docs/install.md says who needs which.
# PYTHON names the interpreter (default python3.11).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${1:-}
case "$name" in
  full|light|legacy|benchmarks) ;;
  *) echo "usage: bash tools/setup_env.sh full|light|legacy|benchmarks" >&2; exit 2 ;;
esac
python=${PYTHON:-$(command -v python3.11 || command -v python3)} \
  || { echo "setup_env: no python3.11 found; set PYTHON to a Python 3.11" >&2; exit 1; }
python=$("$python" -c 'import sys; print(sys._base_executable)')  # not that of an environment, which may go now
venv=".venv-$name"
stamp="$venv/.installed"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
say() { echo "setup_env: $name, ${SECONDS} s: $*" >&2; }

# A folder of its own in front of full's packages: beside transformers 5, mmpretrain's language models do not import.
if [ "$name" = benchmarks ]; then
  bash tools/setup_env.sh full
  python=$(.venv-full/bin/python -c 'import sys; print(sys._base_executable)')
  wanted=$(cat .venv-full/.installed requirements/benchmarks.txt requirements/constraints-benchmarks.txt \
           | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c ''; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    packages='import sysconfig; print(sysconfig.get_path("purelib"))'
    below=$(.venv-full/bin/python -c "$packages")
    echo "import site; site.addsitedir('$below')" > "$("$venv/bin/python" -c "$packages")/full.pth"
    pip install -q -c requirements/constraints-full.txt -c requirements/constraints-benchmarks.txt \
      -r requirements/benchmarks.txt
    echo "$wanted" > "$stamp"
    say "ready: $venv"
  fi
  exit
fi

# with the folder: an environment does not move
wanted=$({ pwd; cat "requirements/$name.txt" "requirements/$name-nodeps.txt" requirements/tests.txt \
                    "requirements/constraints-$name.txt"; } | sha256sum | cut -d' ' -f1)
package=$(cat setup.py requirements.txt mmprune/version.py | sha256sum | cut -d' ' -f1)

install_requirements() {
  "$python" -c 'import sys; v = sys.version_info[:2]
sys.exit(0 if v == (3, 11) else f"setup_env: Python 3.11 is the certified version, this is {v[0]}.{v[1]}; set PYTHON")'
  rm -rf "$venv"
  "$python" -m venv "$venv"
  local constraints=(-c "requirements/constraints-$name.txt") mmcv
  case "$name" in
    light) say 'installing the packages (2 GB, a minute)' ;;
    *) say 'installing the packages (5 GB, 3 minutes and more)' ;;
  esac
  pip install -q "${constraints[@]}" -r "requirements/$name.txt" -r requirements/tests.txt
  mmcv=$(sed -n 's/^mmcv==//p' "requirements/$name-nodeps.txt")
  if [ -n "$mmcv" ]; then
    # a variable of its own: the exit status of a command substitution in an argument is lost
    mmcv=$(bash tools/mmcv_wheel.sh "$venv/bin/python" "$mmcv")
  fi
  say 'installing what comes without its own requirements'
  pip install -q "${constraints[@]}" --no-deps --no-build-isolation ${mmcv:+"$mmcv"} -r "requirements/$name-nodeps.txt"
  if [ -n "$mmcv" ]; then
    "$venv/bin/python" -W ignore -c 'import mmcv.ops'  # its operators were compiled for this torch
  fi
  echo "$wanted" > "$stamp"
}

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c ''; then
  install_requirements
fi
# mmprune itself: its command, its version and the links in mmprune/.mim
if [ "$(cat "$stamp-package" 2>/dev/null)" != "$package" ] || [ ! -e mmprune/.mim/model-index.yml ]; then
  pip install -q --no-deps --no-build-isolation -e .
  echo "$package" > "$stamp-package"
  say "ready: $venv"
fi
