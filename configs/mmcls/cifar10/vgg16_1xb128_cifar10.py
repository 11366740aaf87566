# VGG-16 with norms and one linear layer, as Li et al. 2017 and Liu et al. 2017 prune it, on CIFAR-10.
_base_ = ['mmcls::_base_/datasets/cifar10_bs16.py', 'mmcls::_base_/schedules/cifar10_bs128.py',
          'mmcls::_base_/default_runtime.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(type='VGG', depth=16, norm_cfg=dict(type='BN'), num_classes=-1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512, loss=dict(type='CrossEntropyLoss')))
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=250)
test_dataloader = dict(batch_size=250)
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
