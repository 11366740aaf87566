# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = '../cifar10/resnet56_1xb128_cifar10.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'work_dirs/resnet56_1xb128_cifar10/epoch_200.pth'
# Share of the filters that goes, by pattern of layers; a later pattern wins, and what none matches stays.
levels = {'backbone.layer1.*.conv1': 0.6, 'backbone.layer1.7.conv1': 0, 'backbone.layer1.8.conv1': 0,
          'backbone.layer2.*.conv1': 0.3, 'backbone.layer2.0.conv1': 0, 'backbone.layer2.7.conv1': 0,
          'backbone.layer3.*.conv1': 0.1, 'backbone.layer3.0.conv1': 0, 'backbone.layer3.8.conv1': 0}
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 32, 32)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', criterion='L1', target=dict(levels=levels)),
    pretrained_path, input_shape)
