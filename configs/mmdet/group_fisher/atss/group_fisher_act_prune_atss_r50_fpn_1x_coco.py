# The config that the model was trained with: mmdet::... or a file of yours.
_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
# Its checkpoint: a file or a URL.
pretrained_path = ('https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r50_fpn_1x_coco/'
                   'atss_r50_fpn_1x_coco_20200209-985f7bd0.pth')
# Iterations between two prune events, each of which removes one channel.
interval = 10
# A channel's score is divided by what it costs: 'act' (activations), 'flops' or 'none'.
normalization_type = 'act'
# The base config's learning rate is multiplied by this; lower it if the loss becomes NaN.
lr_ratio = 0.1
# The run ends when this share of the FLOPs is left.
target_flop_ratio = 0.5
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 1333, 800)
# Epochs that the run may take; it ends at its target.
max_epochs = 20

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape)
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_epochs)
# A frozen stage learns nothing, but its channels are scored: gradients must reach its consumers.
model['architecture']['backbone']['frozen_stages'] = -1
