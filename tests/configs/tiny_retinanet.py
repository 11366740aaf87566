# A small RetinaNet on images whose size is another one on every rank, for tests with two processes.
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
model = dict(
    data_preprocessor=dict(mean=[60.0] * 3, std=[60.0] * 3),
    backbone=dict(base_channels=4, stem_channels=4, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=8),
    bbox_head=dict(num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1))
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'), dataset=dict(type='mmprune.UnevenBoxes', length=80))
val_dataloader = val_evaluator = val_cfg = test_dataloader = test_evaluator = test_cfg = None
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = []
auto_scale_lr = None
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1)
randomness = dict(seed=0)
custom_imports = dict(imports=['uneven_images'], allow_failed_imports=False)
