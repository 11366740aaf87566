# The prune config.
_base_ = './group_fisher_act_prune_yolox-tiny_bccd.py'
# The checkpoint that the prune run wrote at its target.
pruned_path = 'work_dirs/group_fisher_act_prune_yolox-tiny_bccd/flops_0.60.pth'
# Half of what the dense training began with.
finetune_lr = 5e-4
epochs = 6

from mmprune.config import finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
