# The config that the dense model was trained with.
_base_ = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
# The structure: a dict, or the json file that finetuning wrote beside its checkpoints. This one is of no run: all
# units are narrowed alike, to 60 % of the FLOPs, to see what that is worth.
fix_subnet = '{{ fileDirname }}/even_segformer_mit-b0_8xb2-160k_ade20k-512x512.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 8
# An input that the model accepts, batch first; costs are counted for it.
input_shape = (1, 3, 512, 512)

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape)
