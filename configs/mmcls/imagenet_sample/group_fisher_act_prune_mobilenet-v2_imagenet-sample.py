# The config that the model was trained with.
_base_ = './mobilenet-v2_imagenet-sample.py'
# Its checkpoint; tools/model_converters/from_torchvision.py makes it from torchvision's weights.
pretrained_path = 'work_dirs/mobilenet_v2.pth'
# Iterations between two prune events.
interval = 5
normalization_type = 'act'
lr_ratio = 0.1125
# Few images allow little pruning: 0.9, not the 0.65 of the ImageNet run.
target_flop_ratio = 0.9
input_shape = (1, 3, 224, 224)
# Epochs that the run may take; it ends at its target.
max_epochs = 320

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape)
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_epochs)
