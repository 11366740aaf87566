#!/usr/bin/env bash
# CONFIG GPUS [options of train.py]; PORT, NNODES, NODE_RANK and MASTER_ADDR come from the environment.
set -e
if [ $# -lt 2 ]; then echo "usage: bash tools/dist_train.sh CONFIG GPUS [options]" >&2; exit 2; fi
CONFIG=$1
GPUS=$2

PYTHONPATH="$(dirname "$0")/..${PYTHONPATH:+:$PYTHONPATH}" \
${PYTHON:-python} -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
