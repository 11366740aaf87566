_base_ = '../dense.py'

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.OneShotPruningHook', batches=3, criterion=dict(type='FPGM', distance='cosine'),
         target=dict(ratio=0.3, scope='layer', op_types=['Conv2d'], align=2)),
    'dense.pth', (1, 3, 16, 16), mutate_linear=True)
