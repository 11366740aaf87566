# The config that the model was trained with: mmseg::... or a file of yours.
_base_ = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
# Its checkpoint: a file or a URL.
pretrained_path = ('https://download.openmmlab.com/mmsegmentation/v0.5/'
                   'segformer/segformer_mit-b0_512x512_160k_ade20k/'
                   'segformer_mit-b0_512x512_160k_ade20k_20210726_101530-8ffa8fda.pth')
# Iterations between two prune events.
interval = 10
# Channels, heads and dimensions that one event removes at least.
channels_per_event = 1
# A score is divided by what it costs: 'act' (activations), 'flops' or 'none'.
normalization_type = 'flops'
# The base config's learning rate is multiplied by this; lower it if the loss becomes NaN.
lr_ratio = 0.1
# The run ends when this share of the FLOPs is left, those of the products of attention among them.
target_flop_ratio = 0.5
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 512, 512)
# Iterations that the run may take; it ends at its target.
max_iters = 160000

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape, mutate_linear=True)
model['channels_per_event'] = channels_per_event
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_iters=max_iters)
