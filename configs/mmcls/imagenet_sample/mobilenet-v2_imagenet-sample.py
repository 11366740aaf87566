# MobileNetV2 on a folder of one image per ImageNet class, short side 256: {data_root}/meta.txt lists "file label".
# The even-numbered images are for training, the odd-numbered for testing; each knows half of the classes only.
_base_ = 'mmcls::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
data_root = '{{$MMPRUNE_DATA:data}}/imagenet_sample'
batch_size = 16
# Which images are tested: the odd-numbered ones; range(1000) tests all.
test_indices = list(range(1, 1000, 2))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.5, 1.0), backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackClsInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackClsInputs'),
]
dataset = dict(type='CustomDataset', data_root=data_root, ann_file='meta.txt', data_prefix='')
train_dataloader = dict(
    batch_size=batch_size, num_workers=1, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(_delete_=True, **dataset, indices=list(range(0, 1000, 2)), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=50, num_workers=1, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(_delete_=True, **dataset, indices=test_indices, pipeline=test_pipeline))
test_dataloader = val_dataloader

# the original learning rate, scaled from a batch of 256
optim_wrapper = dict(optimizer=dict(lr=0.045 * batch_size / 256))
param_scheduler = []
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1000)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=10, max_keep_ckpts=1))
randomness = dict(seed=0)
