# The config that the model was trained with: mmpose::... or a file of yours.
_base_ = 'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py'
# Its checkpoint: a file or a URL.
pretrained_path = ('https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/'
                   'rtmpose-s_simcc-coco_pt-aic-coco_420e-256x192-8edcf0d7_20230127.pth')
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
input_shape = (1, 3, 256, 192)
# Epochs that the run may take; it ends at its target.
max_epochs = 600

from mmprune.config import prune_schedule, prune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, pretrained_path, interval, normalization_type, lr_ratio, target_flop_ratio, input_shape, mutate_linear=True)
model['channels_per_event'] = channels_per_event
param_scheduler, train_cfg, dense_schedule = prune_schedule(_base_, max_epochs)
