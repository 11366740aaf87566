# The config that the dense model was trained with.
_base_ = 'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_aic-coco-256x192.py'
# The structure: a dict, or the json file that finetuning wrote beside its checkpoints.
fix_subnet = '{{ fileDirname }}/group_fisher_rtmpose-s_8xb256-420e_aic-coco-256x192.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 16
# An input that the model accepts, batch first; costs are counted for it.
input_shape = (1, 3, 256, 192)

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape)
