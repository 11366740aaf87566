# The config that the dense model was trained with.
_base_ = './yolox-tiny_bccd.py'
# The structure: a dict, or the json file that finetuning wrote beside its checkpoints.
fix_subnet = '{{ fileDirname }}/group_fisher_act_yolox-tiny_bccd.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 8
# An input that the model accepts, batch first.
input_shape = (1, 3, 160, 160)

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape)
