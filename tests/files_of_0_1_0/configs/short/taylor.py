_base_ = '../dense.py'

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', batches=3, criterion=dict(type='Taylor', of='activations'), target=dict(ratio=0.4)),
    'dense.pth', (1, 3, 16, 16), mutate_linear=True)
