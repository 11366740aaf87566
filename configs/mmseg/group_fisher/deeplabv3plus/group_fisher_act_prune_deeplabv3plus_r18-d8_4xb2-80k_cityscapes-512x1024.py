# The config that the model was trained with: mmseg::... or a file of yours.
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'
# Its checkpoint: a file or a URL.
pretrained_path = ('https://download.openmmlab.com/mmsegmentation/v0.5/'
                   'deeplabv3plus/deeplabv3plus_r18-d8_512x1024_80k_cityscapes/'
                   'deeplabv3plus_r18-d8_512x1024_80k_cityscapes_20201226_080942-cff257fe.pth')
# Iterations between two prune events, each of which removes one channel.
interval = 10
# A channel's score is divided by what it costs: 'act' (activations), 'flops' or 'none'.
normalization_type = 'act'
# The base config's learning rate is multiplied by this; lower it if the loss becomes NaN.
lr_ratio = 0.1
# The run ends when this share of the FLOPs is left.
target_flop_ratio = 0.5
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 512, 1024)
# Iterations that the run may take; it ends at its target.
max_iters = 80000

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape)
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_iters=max_iters)
