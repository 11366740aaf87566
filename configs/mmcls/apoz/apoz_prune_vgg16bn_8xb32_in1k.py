# The config that the model was trained with: mmcls::..., mmpretrain::... or a file of yours.
_base_ = 'mmcls::vgg/vgg16bn_8xb32_in1k.py'
# Its checkpoint: a file or a URL.
pretrained_path = 'https://download.openmmlab.com/mmclassification/v0/vgg/vgg16_bn_batch256_imagenet_20210208-7e55cd29.pth'
# Share of the channels that goes, by pattern of layers; what none matches stays.
levels = {'backbone.features.16': 122 / 512, 'backbone.classifier.0': 2583 / 4096}
# How often channels are scored and cut, each time an equal part.
rounds = 6
# Epochs of training between two rounds.
epochs_between = 2
# Training batches that zeros are counted on.
batches = 20
# Epochs of the whole run: what is left after the last round trains the result.
epochs = 14
# The base config's learning rate is multiplied by this.
lr_ratio = 0.1
# The input that FLOPs are counted for, batch first.
input_shape = (1, 3, 224, 224)
# Channels that a linear layer reads are pruned too.
mutate_linear = True

from mmprune.config import schedule_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type='mmprune.IterativePruningHook', criterion='APoZ', target=dict(levels=levels), rounds=rounds,
         epochs=epochs_between, batches=batches),
    pretrained_path, input_shape, lr_ratio, mutate_linear)
param_scheduler = []
train_cfg = dict(max_epochs=epochs)
