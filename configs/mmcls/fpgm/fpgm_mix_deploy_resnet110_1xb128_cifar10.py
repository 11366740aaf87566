# The config that the dense model was trained with.
_base_ = '../cifar10/resnet110_1xb128_cifar10.py'
# The structure: a dict, or a json file; this one is what the prune config's rates leave
# (tools/pruning/forecast_structure.py).
fix_subnet = '{{ fileDirname }}/fpgm_mix_resnet110_1xb128_cifar10.json'
# Channels are padded to a multiple after loading; tools/find_divisor.py finds the fastest.
divisor = 4
# An input that the model accepts, batch first.
input_shape = (1, 3, 32, 32)
# As in the prune config.
mutate_linear = True

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape, mutate_linear=mutate_linear)
