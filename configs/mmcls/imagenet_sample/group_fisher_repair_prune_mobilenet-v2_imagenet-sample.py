# The config that the model was trained with.
_base_ = './mobilenet-v2_imagenet-sample.py'
# Its checkpoint; tools/model_converters/from_torchvision.py makes it from torchvision's weights.
pretrained_path = 'work_dirs/mobilenet_v2.pth'
# Share of the FLOPs that stays.
flops = 0.85
# How often channels are scored, cut and repaired, each time an equal part of the way.
rounds = 2
# Images by which what reads the removed channels is solved again after each cut.
repair = dict(images=500)
# Epochs of training between two rounds, and of the whole run.
epochs_between, epochs = 1, 2
# Training batches that a round looks at.
batches = 31
# Small: one image a class teaches the classes of the training images, and unlearns the others.
lr_ratio = 0.001
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.IterativePruningHook', criterion='GroupFisher', target=dict(flops=flops), rounds=rounds,
         epochs=epochs_between, batches=batches, repair=repair),
    pretrained_path, input_shape, lr_ratio)
train_cfg = dict(max_epochs=epochs)
