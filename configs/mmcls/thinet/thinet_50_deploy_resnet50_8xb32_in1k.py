# The config that the dense model was trained with.
_base_ = 'mmcls::resnet/resnet50_8xb32_in1k.py'
# The structure: a dict, or a json file; this one is what the prune config's rates leave
# (tools/pruning/forecast_structure.py).
fix_subnet = '{{ fileDirname }}/thinet_50_resnet50_8xb32_in1k.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 8

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor)
