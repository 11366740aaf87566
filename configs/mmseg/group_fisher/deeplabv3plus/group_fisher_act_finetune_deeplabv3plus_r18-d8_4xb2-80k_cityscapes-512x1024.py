# The prune config.
_base_ = './group_fisher_act_prune_deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'
# The checkpoint that the prune run wrote at its target.
pruned_path = 'work_dirs/group_fisher_act_prune_deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024/flops_0.50.pth'
# Learning rate, usually that of the original training.
finetune_lr = 0.01

from mmprune.config import finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
# as in the original training
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False)]
