# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = '../cifar10/resnet32_1xb128_cifar10.py'
# Its checkpoint: a file or a URL; None for a model from scratch.
pretrained_path = 'work_dirs/resnet32_1xb128_cifar10/epoch_200.pth'
# Share of the filters of a layer that their norm lets pass; 1 lets all pass.
rate_norm = 1
# Share of the filters of a layer that goes because the others can replace them.
rate_dist = 0.4
# Epochs between two times that filters are set to zero.
epoch_prune = 1
# Epochs of the run, after which the zeros are cut out.
epochs = 200
# The base config's learning rate is multiplied by this: 0.1 for a trained model, 1 from scratch.
lr_ratio = 0.1
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 32, 32)
# Channels that a linear layer reads are pruned too.
mutate_linear = True

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.SoftPruningHook', rate_norm=rate_norm, rate_dist=rate_dist, epoch_prune=epoch_prune),
    pretrained_path, input_shape, lr_ratio, mutate_linear)
optim_wrapper['optimizer']['weight_decay'] = 5e-4
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.2)
train_cfg = dict(max_epochs=epochs)
