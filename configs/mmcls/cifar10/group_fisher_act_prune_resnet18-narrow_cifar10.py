# The config that the model was trained with.
_base_ = './resnet18-narrow_cifar10.py'
# Its checkpoint.
pretrained_path = 'work_dirs/resnet18-narrow_cifar10/epoch_6.pth'
# Iterations between two prune events.
interval = 3
normalization_type = 'act'
# 0.005: the run starts where the dense training ended.
lr_ratio = 0.05
target_flop_ratio = 0.5
input_shape = (1, 3, 32, 32)
# Epochs that the run may take; it ends at its target.
max_epochs = 6

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape)
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_epochs)
