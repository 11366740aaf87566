_base_ = '../dense.py'

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', batches=3, criterion='Random', target=dict(flops=0.6), remove_blocks=False),
    'dense.pth', (1, 3, 16, 16), mutate_linear=True,
    choice=dict(include='backbone', exclude='backbone.layer1.1.conv1', min_channels=2))
