# A classifier of digits with one stage of two residual blocks.
_base_ = 'mmcls::_base_/default_runtime.py'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, num_stages=1, strides=(1, ), dilations=(1, ), out_indices=(0, ),
                  base_channels=8, stem_channels=8, style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=8, loss=dict(type='CrossEntropyLoss')))
data_preprocessor = dict(num_classes=10, mean=[60.0] * 3, std=[90.0] * 3, to_rgb=False)
train_dataloader = dict(
    batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'), dataset=dict(
        type='mmprune.Digits', split='train', indices=48, pipeline=[
            dict(type='Resize', scale=(20, 20)), dict(type='RandomCrop', crop_size=16),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackClsInputs')]))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=10)
default_hooks = dict(logger=dict(interval=5))
randomness = dict(seed=0)
