# RTMPose-s learns the 53 people of a 30-image COCO sample by heart, and is tested on the same people:
# {data_root}/{images,annotations} as in COCO
_base_ = 'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py'
data_root = '{{$MMPRUNE_DATA:data}}/pose_minicoco/'
epochs = 80

model = dict(backbone=dict(init_cfg=None), test_cfg=dict(flip_test=False))
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomBBoxTransform', shift_factor=0., scale_factor=[0.95, 1.05], rotate_factor=5),
    dict(type='TopdownAffine', input_size={{_base_.codec.input_size}}),
    dict(type='GenerateTarget', encoder={{_base_.codec}}),
    dict(type='PackPoseInputs'),
]
last_pipeline = [step for step in train_pipeline if not step['type'].startswith('Random')]
ann_file = 'annotations/person_keypoints_train2017.json'
train_dataset = dict(data_root=data_root, ann_file=ann_file, data_prefix=dict(img='images/train2017/'))
train_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=train_pipeline, **train_dataset))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=train_dataset)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + ann_file)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
# the base's own hooks, with the last pipeline in the second half
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
    dict(type='mmdet.PipelineSwitchHook', switch_epoch=epochs // 2, switch_pipeline=last_pipeline)]
train_cfg = dict(max_epochs=epochs, val_interval=20)
randomness = dict(seed=0)
