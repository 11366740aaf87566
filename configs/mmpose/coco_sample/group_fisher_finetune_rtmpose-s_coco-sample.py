# The prune config.
_base_ = './group_fisher_prune_rtmpose-s_coco-sample.py'
# The checkpoint that the prune run wrote at its target.
pruned_path = 'work_dirs/group_fisher_prune_rtmpose-s_coco-sample/flops_0.51.pth'
finetune_lr = 1e-3

from mmprune.config import finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
epochs = 50
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=epochs, val_interval=10)
