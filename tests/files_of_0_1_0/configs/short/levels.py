_base_ = '../dense.py'

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', batches=3, criterion='L1', target=dict(levels={'backbone.layer1.*.conv1': 0.5, 'backbone.conv1': 0.25})),
    'dense.pth', (1, 3, 16, 16), mutate_linear=True)
