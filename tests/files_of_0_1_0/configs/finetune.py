_base_ = './prune.py'
pruned_path = 'runs/prune/flops_0.75.pth'
finetune_lr = 0.02

from mmprune.config import finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))
