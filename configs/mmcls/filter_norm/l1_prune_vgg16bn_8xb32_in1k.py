# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = 'mmcls::vgg/vgg16bn_8xb32_in1k.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'https://download.openmmlab.com/mmclassification/v0/vgg/vgg16_bn_batch256_imagenet_20210208-7e55cd29.pth'
# Share of the filters that goes, by pattern of layers; a later pattern wins, and what none matches stays.
levels = {'backbone.features': 0.3}
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)
# Channels that a linear layer reads are pruned too.
mutate_linear = True

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', criterion='L1', target=dict(levels=levels)),
    pretrained_path, input_shape, mutate_linear=mutate_linear)
