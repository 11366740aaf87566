# The config that the model was trained with.
_base_ = './resnet18-narrow_cifar10.py'
# Its checkpoint.
pretrained_path = 'work_dirs/resnet18-narrow_cifar10/epoch_6.pth'
# Share of the FLOPs that stays.
flops = 0.7
# After each cut, what reads the removed channels is solved again by so many images; 'auto' cuts in rounds, each of which
# takes at most 8 % of the dense FLOPs and is repaired against the dense network.
repair = dict(images=512, rounds='auto')
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 32, 32)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', criterion='FPGM', target=dict(flops=flops), repair=repair),
    pretrained_path, input_shape)
