# The config that the model was trained with.
_base_ = './retinanet_r18_fpn_bccd.py'
# Its checkpoint.
pretrained_path = 'work_dirs/retinanet_r18_fpn_bccd/epoch_20.pth'
# Iterations between two prune events.
interval = 2
normalization_type = 'act'
lr_ratio = 0.1
target_flop_ratio = 0.5
input_shape = (1, 3, 240, 320)
# Epochs that the run may take; it ends at its target.
max_epochs = 150

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape)
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_epochs, val_interval=20)
