# The config that the dense model was trained with.
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'
# The structure: a dict, or the json file that finetuning wrote beside its checkpoints. This one is of no run: all
# units are narrowed alike, to 50 % of the FLOPs, to see what that is worth.
fix_subnet = '{{ fileDirname }}/even_deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 8
# An input that the model accepts, batch first; costs are counted for it.
input_shape = (1, 3, 512, 1024)

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape)
