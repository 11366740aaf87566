# The prune config.
_base_ = './group_fisher_flops_prune_deit-tiny_4xb256_in1k.py'
# The checkpoint that the prune run wrote at its target.
pruned_path = 'work_dirs/group_fisher_flops_prune_deit-tiny_4xb256_in1k/flops_0.50.pth'
# Learning rate at the start.
finetune_lr = 1e-4

from mmprune.config import finetune_schedule, finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
param_scheduler, train_cfg = finetune_schedule(_base_)
