_base_ = './dense.py'
pretrained_path = 'dense.pth'
interval = 2
normalization_type = 'act'
lr_ratio = 0.5
target_flop_ratio = 0.75
input_shape = (1, 3, 16, 16)

from mmprune.config import prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape,
    mutate_linear=True)
default_hooks = dict(checkpoint=dict(type='mmprune.WholeCheckpointHook', interval=7, by_epoch=False))
