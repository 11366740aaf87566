# The config that the dense model is trained with.
_base_ = '../cifar10/repvgg-a0_1xb128_cifar10.py'
# The checkpoint of the sparsity training.
pretrained_path = 'work_dirs/network_slimming_sparsity_repvgg-a0_1xb128_cifar10/epoch_200.pth'
# Share of the channels that goes, those with the least scales of all layers first.
ratio = 0.7
# Share of the channels of one layer that goes at most.
max_pruned_ratio = 0.9
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 32, 32)
# Channels that a linear layer reads are pruned too.
mutate_linear = True

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', criterion='BNScale',
         target=dict(ratio=ratio, scope='global', max_pruned_ratio=max_pruned_ratio)),
    pretrained_path, input_shape, mutate_linear=mutate_linear)
