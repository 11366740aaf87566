# The config that the dense model was trained with.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
# The structure: a dict, or the json file that finetuning wrote beside its checkpoints.
fix_subnet = '{{ fileDirname }}/group_fisher_act_retinanet_r50_fpn_1x_coco.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 16
# An input that the model accepts, batch first; costs are counted for it.
input_shape = (1, 3, 1333, 800)

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape)
