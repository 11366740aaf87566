# The config that the model was trained with: mmpretrain::... or a file of yours.
_base_ = 'mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'https://download.openmmlab.com/mmclassification/v0/deit3/deit3-small-p16_3rdparty_in1k_20221008-0f7c70cf.pth'
# What is expanded: 'activations' (Molchanov et al. 2017) or 'weights' (2019).
source = 'activations'
# Share of the FLOPs that stays, those of the products of attention among them.
flops = 0.5
# Share of the heads, dimensions or channels of one unit that goes at most.
max_pruned_ratio = 0.75
# How often everything is scored and cut, each time an equal part of the way.
rounds = 5
# Epochs of training between two rounds.
epochs_between = 1
# Training batches that a round looks at.
batches = 8
# Epochs of the whole run: what is left after the last round trains the result.
epochs = 6
# The base config's learning rate is multiplied by this.
lr_ratio = 0.1
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.IterativePruningHook', criterion=dict(type='Taylor', source=source),
         target=dict(flops=flops, max_pruned_ratio=max_pruned_ratio), rounds=rounds, epochs=epochs_between,
         batches=batches),
    pretrained_path, input_shape, lr_ratio, mutate_linear=True)
param_scheduler = []
train_cfg = dict(max_epochs=epochs)
