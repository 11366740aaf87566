# The prune config.
_base_ = './group_fisher_act_prune_pidnet-s_2xb6-120k_1024x1024-cityscapes.py'
# The checkpoint that the prune run wrote at its target.
pruned_path = 'work_dirs/group_fisher_act_prune_pidnet-s_2xb6-120k_1024x1024-cityscapes/flops_0.50.pth'
# Learning rate, usually that of the original training.
finetune_lr = 0.01

from mmprune.config import finetune_schedule, finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
param_scheduler, train_cfg = finetune_schedule(_base_)
