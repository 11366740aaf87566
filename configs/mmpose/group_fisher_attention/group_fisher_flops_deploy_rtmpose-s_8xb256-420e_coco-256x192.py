# The config that the dense model was trained with.
_base_ = 'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py'
# The structure: the json file that finetuning writes beside its checkpoints; which channels go depends on weights.
fix_subnet = 'work_dirs/group_fisher_flops_finetune_rtmpose-s_8xb256-420e_coco-256x192/fix_subnet.json'
# Channels are padded to a multiple after loading; heads and dimensions no further than the dense model has them.
divisor = 8
# An input that the model accepts, batch first; costs are counted for it.
input_shape = (1, 3, 256, 192)

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape, mutate_linear=True)
