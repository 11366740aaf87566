# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = 'mmcls::resnet/resnet50_8xb32_in1k.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth'
# Iterations between two prune events, each of which removes one channel.
interval = 25
# A channel's score is divided by what it costs: 'act' (activations), 'flops' or 'none'.
normalization_type = 'flops'
# The base config's learning rate is multiplied by this; lower it if the loss becomes NaN.
lr_ratio = 0.04
# The run ends when this share of the FLOPs is left.
target_flop_ratio = 0.5
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)
# Epochs that the run may take; it ends at its target.
max_epochs = 50

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape)
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_epochs)
