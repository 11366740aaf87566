_base_ = './dense.py'
pretrained_path = 'dense.pth'
of = 'weights'
rounds = 3
input_shape = (1, 3, 16, 16)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.IterativePruningHook', criterion=dict(type='Taylor', of=of), target=dict(flops=0.5),
         rounds=rounds, epochs=1, batches=3),
    pretrained_path, input_shape, lr_ratio=0.5, mutate_linear=True)
default_hooks = dict(checkpoint=dict(type='mmprune.WholeCheckpointHook', interval=9, by_epoch=False))
