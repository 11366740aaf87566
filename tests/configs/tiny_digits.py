# A tiny dense training on scikit-learn's digits, for tests of the real Runner.
_base_ = 'mmcls::_base_/default_runtime.py'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8, out_indices=(3, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')))
data_preprocessor = dict(num_classes=10, mean=[60.0] * 3, std=[90.0] * 3, to_rgb=False)
pipeline = [dict(type='Resize', scale=(16, 16)), dict(type='PackClsInputs')]
train_dataloader = dict(
    batch_size=16, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'), dataset=dict(type='mmprune.Digits', split='train', pipeline=pipeline))
val_dataloader = dict(
    batch_size=100, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'), dataset=dict(type='mmprune.Digits', split='test', pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=10)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=0)
