# The prune config.
_base_ = './group_fisher_act_prune_resnet-small_digits.py'
# The checkpoint that the prune run wrote at its target.
pruned_path = 'work_dirs/quickstart/prune/flops_0.50.pth'
# Learning rate, usually that of the original training.
finetune_lr = 0.05
epochs = 10

from mmprune.config import finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=epochs)
