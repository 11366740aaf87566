# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = 'mmcls::resnet/resnet50_8xb32_in1k.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth'
# Share of the filters that goes, by pattern of layers; a later pattern wins, and what none matches stays.
levels = {'backbone.layer*.conv1': 0.3, 'backbone.layer*.conv2': 0.3}
# Training batches that channels are chosen by; every one gives samples for the least squares too.
batches = 40
# Epochs of training after each layer.
epochs_between = 1
# Epochs of the whole run: what is left after the last layer trains the result.
epochs = 40
# The base config's learning rate is multiplied by this.
lr_ratio = 0.01
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.LayerByLayerPruningHook', criterion='ThiNet', target=dict(levels=levels),
         interval=epochs_between, batches=batches),
    pretrained_path, input_shape, lr_ratio)
# 1e-4 while layers go, then 1e-3 and down
param_scheduler = [dict(type='ConstantLR', factor=0.1, by_epoch=True, begin=0, end=32),
                   dict(type='MultiStepLR', by_epoch=True, milestones=[34, 37], gamma=0.1)]
train_cfg = dict(max_epochs=epochs)
