# The config that the dense model was trained with.
_base_ = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
# The structure: the json file that finetuning writes beside its checkpoints; which channels go depends on weights.
fix_subnet = 'work_dirs/taylor_finetune_deit-small_4xb256_in1k/fix_subnet.json'
# Channels are padded to a multiple after loading; heads and dimensions no further than the dense model has them.
divisor = 8

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, mutate_linear=True)
