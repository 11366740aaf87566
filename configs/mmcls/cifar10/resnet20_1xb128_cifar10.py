# ResNet-20 of He et al. 2016 on CIFAR-10, which mmcls downloads.
_base_ = ['mmcls::_base_/datasets/cifar10_bs16.py', 'mmcls::_base_/schedules/cifar10_bs128.py',
          'mmcls::_base_/default_runtime.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmprune.CifarResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')))
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=250)
test_dataloader = dict(batch_size=250)
