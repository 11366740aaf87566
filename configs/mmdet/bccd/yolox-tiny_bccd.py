# YOLOX-tiny on blood cells, from scratch, in images small enough for a CPU.
# {data_root}/{train,val,test}.json, as COCO writes them, and the folders of the same names
_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
data_root = '{{$MMPRUNE_DATA:data}}/bccd/'
epochs = 24
last_epochs = 8  # without mosaic
scale = (160, 160)

model = dict(data_preprocessor=dict(batch_augments=None), bbox_head=dict(num_classes=3),
             test_cfg=dict(max_per_img=200))
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))
grey = dict(img=(114.0, 114.0, 114.0))
train_pipeline = [
    dict(type='Mosaic', img_scale=scale, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=(-scale[0] // 2, -scale[1] // 2)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=grey),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=grey),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    num_workers=1,
    dataset=dict(pipeline=train_pipeline, dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='train.json', data_prefix=dict(img='train/'))))
val_dataloader = dict(
    num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo, ann_file='val.json',
                                data_prefix=dict(img='val/'), pipeline=test_pipeline))
test_dataloader = dict(
    num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo, ann_file='test.json',
                                data_prefix=dict(img='test/'), pipeline=test_pipeline))
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = dict(ann_file=data_root + 'test.json')

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.02))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
# the base's own hooks
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=last_epochs, priority=48),
    dict(type='SyncNormHook', priority=48),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0001, update_buffers=True, priority=49)]
train_cfg = dict(max_epochs=epochs, val_interval=6)
default_hooks = dict(checkpoint=dict(interval=6, max_keep_ckpts=1))
randomness = dict(seed=0)
