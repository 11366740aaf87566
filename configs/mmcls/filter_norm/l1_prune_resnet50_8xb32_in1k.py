# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = 'mmcls::resnet/resnet50_8xb32_in1k.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth'
# Share of the filters that goes, by pattern of layers; a later pattern wins, and what none matches stays.
levels = {'backbone.layer*.conv1': 0.3, 'backbone.layer*.conv2': 0.3}
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', criterion='L1', target=dict(levels=levels)),
    pretrained_path, input_shape)
