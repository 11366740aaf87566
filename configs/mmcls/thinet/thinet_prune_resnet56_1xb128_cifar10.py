# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = '../cifar10/resnet56_1xb128_cifar10.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'work_dirs/resnet56_1xb128_cifar10/epoch_200.pth'
# Share of the filters that goes, by pattern of layers; a later pattern wins, and what none matches stays.
levels = {'backbone.layer*.conv1': 0.5}
# Training batches that channels are chosen by; every one gives samples for the least squares too.
batches = 8
# Epochs of training after each layer.
epochs_between = 1
# Epochs of the whole run: what is left after the last layer trains the result.
epochs = 60
# The base config's learning rate is multiplied by this.
lr_ratio = 0.1
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 32, 32)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.LayerByLayerPruningHook', criterion='ThiNet', target=dict(levels=levels),
         interval=epochs_between, batches=batches),
    pretrained_path, input_shape, lr_ratio)
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[36, 48], gamma=0.1)]
train_cfg = dict(max_epochs=epochs)
