#!/usr/bin/env bash
# Compile mmcv for the torch of an environment, once, and print the wheel's path.
#
#   bash tools/mmcv_wheel.sh .venv-full/bin/python 2.0.1
#
# The wheel is kept in MMPRUNE_WHEELS (default ~/.cache/mmprune/wheels), one folder for each torch: pip's own cache
# cannot tell for which torch a wheel was compiled. Its operators run on the CPU; FORCE_CUDA=1
# compiles those for the GPU, too, and needs nvcc (not tested).
set -euo pipefail
python=$1 version=$2
torch=$("$python" -c 'import torch; print(torch.__version__)')
tag=$("$python" -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')
export FORCE_CUDA=${FORCE_CUDA:-0} MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)}
kind=$([ "$FORCE_CUDA" = 0 ] || echo -cuda-operators)
folder=${MMPRUNE_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/mmprune/wheels}/torch-$torch$kind
log=$folder/mmcv-$version-$tag.log
cxx=${CXX:-g++}
find_wheel() { find "$folder" -name "mmcv-$version-$tag-*.whl" -print -quit; }
say() { echo "mmcv_wheel: $*" >&2; }
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

mkdir -p "$folder"
exec 8> "$folder/lock"
flock 8  # another clone may be compiling it
if [ -n "$(find_wheel)" ]; then
  find_wheel
  exit
fi
command -v "${cxx%% *}" > /dev/null || { say "no C++ compiler: install g++, or set CXX"; exit 1; }
if [ "$FORCE_CUDA" = 0 ]; then
  say "its operators (NMS, RoIAlign, ...) will run on the CPU only; for a GPU set FORCE_CUDA=1, which needs nvcc of torch's CUDA (not tested)"
  export CUDA_VISIBLE_DEVICES=  # mmcv compiles for a GPU wherever torch sees one
fi
say "compiling mmcv $version for torch $torch, once (5 to 20 minutes; log: $log)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# mmcv's setup asks for C++14; torch's headers need C++17 from 2.1 on, C++20 from 2.14 on.
pip download -q --no-deps --no-build-isolation --no-binary mmcv -d "$work" "mmcv==$version" >&2
tar -xzf "$work/mmcv-$version.tar.gz" -C "$work"
standard=$("$python" -c 'import torch; print("c++14" if torch.__version__ < "2.1" else "c++20")')
sed -i "s/-std=c++14/-std=$standard/" "$work/mmcv-$version/setup.py"

# A compiler that parses torch's headers once: each of mmcv's 77 files would take 15 seconds for them.
echo '#include <torch/extension.h>' > "$work/torch.h"
cat > "$work/c++" <<END
#!/usr/bin/env bash
header='$work/torch.h'
case " \$* " in
  *" -c "*) ;;
  *) exec $cxx "\$@" ;;  # linking
esac
(
  flock 9
  if [ ! -e "\$header.gch" ]; then
    flags=()  # of this call, less its files: a precompiled header is read only under the flags that it was made with
    while [ \$# -gt 0 ]; do
      case "\$1" in
        -o|-MF) shift ;;
        -c|-MMD|-MD|*.cpp) ;;
        *) flags+=("\$1") ;;
      esac
      shift
    done
    $cxx "\${flags[@]}" -x c++-header "\$header" -o "\$header.part" && mv "\$header.part" "\$header.gch"
  fi
) 9> "\$header.lock"
exec $cxx -include "\$header" "\$@"
END
chmod +x "$work/c++"
# of ninja's count of files every tenth is shown
CXX="$work/c++" CFLAGS='-O2 -g0' pip wheel -v --no-build-isolation --no-deps --no-cache-dir -w "$work" \
    "$work/mmcv-$version" 2>&1 \
  | tee "$log" | awk 'match($0, /\[[0-9]*0\/[0-9]+\]/) {print "mmcv_wheel: " substr($0, RSTART, RLENGTH); fflush()}' >&2 \
  || { tail -n 30 "$log" >&2; exit 1; }
wheel=$(basename "$work"/mmcv-*.whl)
cp "$work/$wheel" "$folder/part"
mv "$folder/part" "$folder/$wheel"  # whole or not at all
find_wheel
