# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = 'mmcls::resnet/resnet34_8xb32_in1k.py'
# Its checkpoint: a file or a URL; None for a model from scratch.
pretrained_path = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth'
# Share of the filters of a layer that their norm lets pass; 1 lets all pass.
rate_norm = 1
# Share of the filters of a layer that goes because the others can replace them.
rate_dist = 0.4
# The model's parameters from this number...
layer_begin = 0
# ...to this number...
layer_end = 105
# ...in steps of this are pruned: all convolutions.
layer_inter = 3
# Epochs between two times that filters are set to zero.
epoch_prune = 1
# The base config's learning rate is multiplied by this: 0.1 for a trained model, 1 from scratch.
lr_ratio = 0.1
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)
# Channels that a linear layer reads are pruned too.
mutate_linear = True

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.SoftPruningHook', rate_norm=rate_norm, rate_dist=rate_dist,
         layers=dict(begin=layer_begin, end=layer_end, step=layer_inter), epoch_prune=epoch_prune),
    pretrained_path, input_shape, lr_ratio, mutate_linear)
