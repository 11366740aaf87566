# The config that the model is to be trained with.
_base_ = '../cifar10/vgg16_1xb128_cifar10.py'
# From scratch: channels are chosen by the weights that training would start from.
pretrained_path = None
# Share of the filters that goes, by pattern of layers; a later pattern wins, and what none matches stays.
levels = {'backbone.features.0': 0.5, 'backbone.features.1[0-6]': 0.5}
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 32, 32)
# Channels that a linear layer reads are pruned too.
mutate_linear = True

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', criterion='L1', target=dict(levels=levels), stop=False),
    pretrained_path, input_shape, mutate_linear=mutate_linear)
