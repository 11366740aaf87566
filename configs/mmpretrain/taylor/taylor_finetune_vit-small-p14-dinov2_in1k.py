# The prune config.
_base_ = './taylor_prune_vit-small-p14-dinov2_in1k.py'
# The checkpoint that the prune run wrote at its end.
pruned_path = 'work_dirs/taylor_prune_vit-small-p14-dinov2_in1k/pruned.pth'
# Learning rate at the start.
finetune_lr = 1e-4
# Epochs of the run.
epochs = 30

from mmprune.config import finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=epochs)
