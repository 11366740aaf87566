# The config that the dense model was trained with.
_base_ = '../cifar10/vgg16_1xb128_cifar10.py'
# The structure: the json file that finetuning writes beside its checkpoints; which channels go depends on weights.
fix_subnet = 'work_dirs/network_slimming_finetune_vgg16_1xb128_cifar10/fix_subnet.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 8
# An input that the model accepts, batch first.
input_shape = (1, 3, 32, 32)
# As in the prune config.
mutate_linear = True

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape, mutate_linear=mutate_linear)
