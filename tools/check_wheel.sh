#!/usr/bin/env bash
# Build the sdist, and the wheel from it; check the wheel from an empty folder, beside the packages of .venv-light.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
light=$PWD/.venv-light/bin/python
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip() { "$light" -m pip --disable-pip-version-check "$@"; }

"$light" -c 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])' "$work" > "$work/log" 2>&1 \
  || { cat "$work/log" >&2; exit 1; }
pip wheel -q --no-index --no-deps --no-build-isolation -w "$work" "$work"/mmprune-*.tar.gz
"$light" -m venv --without-pip "$work/venv"
pip --python "$work/venv/bin/python" install -q --no-index --no-deps "$work"/mmprune-*.whl
# after mmprune, and without light's own .pth files: its editable mmprune stays out
packages=$("$light" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$packages" > "$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/light.pth"

mkdir "$work/empty"
cd "$work/empty"
export PATH="$work/venv/bin:$PATH" PYTHONWARNINGS=ignore
prune=mmcls/digits/group_fisher_act_prune_resnet-small_digits.py
mmprune --help | grep -q '^  units '
python -m mmprune --version
echo "_base_ = 'mmprune::$prune'" > mine.py
mmprune units "mmprune::$prune" > units.txt
mmprune units mine.py | diff units.txt -
grep -q 'units may be pruned' units.txt
python - "$prune" <<'END'
import sys
from importlib import metadata
from pathlib import Path

import mmprune.registry
from mmengine.hub import get_config

mim = Path(mmprune.__file__).with_name('.mim')
assert Path(sys.prefix) in mim.parents, mim
assert metadata.version('mmprune') == mmprune.__version__
assert not any(path.is_symlink() for path in mim.rglob('*'))
assert {path.name for path in mim.iterdir()} == {'configs', 'tools', 'model-index.yml'}
assert get_config(f'mmprune::{sys.argv[1]}').filename == str(mim / 'configs' / sys.argv[1])
print(f'wheel: {len([*mim.rglob("*.py")])} configs and tools beside mmprune {mmprune.__version__}')
END
