# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = '../cifar10/vgg16_1xb128_cifar10.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'work_dirs/vgg16_1xb128_cifar10/epoch_200.pth'
# Share of the filters that goes, by pattern of layers; a later pattern wins, and what none matches stays.
levels = {'backbone.features.0': 0.5, 'backbone.features.1[0-6]': 0.5}
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 32, 32)
# Channels that a linear layer reads are pruned too.
mutate_linear = True

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', criterion='L1', target=dict(levels=levels)),
    pretrained_path, input_shape, mutate_linear=mutate_linear)
