#!/usr/bin/env bash
# CONFIG CKPT GPUS [options of test.py]; PORT, NNODES, NODE_RANK and MASTER_ADDR come from the environment.
set -e
if [ $# -lt 3 ]; then echo "usage: bash tools/dist_test.sh CONFIG CKPT GPUS [options]" >&2; exit 2; fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3

PYTHONPATH="$(dirname "$0")/..${PYTHONPATH:+:$PYTHONPATH}" \
${PYTHON:-python} -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
