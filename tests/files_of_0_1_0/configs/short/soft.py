_base_ = '../dense.py'

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.SoftPruningHook', rate_norm=1, rate_dist=0.4, layers=['backbone.layer1'], epoch_prune=1),
    'dense.pth', (1, 3, 16, 16), mutate_linear=True)
train_cfg = dict(max_epochs=3)
