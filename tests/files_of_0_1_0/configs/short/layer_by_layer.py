_base_ = '../dense.py'

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.LayerByLayerPruningHook', criterion=dict(type='ThiNet'), target=dict(flops=0.6), interval=1,
         batches=3),
    'dense.pth', (1, 3, 16, 16), mutate_linear=True)
train_cfg = dict(max_epochs=4)
