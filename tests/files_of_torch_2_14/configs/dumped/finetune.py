custom_hooks = [
    dict(type='mmprune.ExactResumeHook'),
    dict(by_epoch=True, interval=1, type='mmprune.PruningStructureHook'),
]
data_preprocessor = dict(
    mean=[
        60.0,
        60.0,
        60.0,
    ],
    num_classes=10,
    std=[
        90.0,
        90.0,
        90.0,
    ],
    to_rgb=False)
default_hooks = dict(
    checkpoint=dict(
        _scope_='mmcls',
        by_epoch=True,
        interval=1,
        type='mmprune.WholeCheckpointHook'),
    logger=dict(_scope_='mmcls', interval=5, type='LoggerHook'),
    param_scheduler=dict(_scope_='mmcls', type='ParamSchedulerHook'),
    sampler_seed=dict(_scope_='mmcls', type='DistSamplerSeedHook'),
    timer=dict(_scope_='mmcls', type='IterTimerHook'),
    visualization=dict(
        _scope_='mmcls', enable=False, type='VisualizationHook'))
default_scope = 'mmcls'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
experiment_name = 'finetune_4'
finetune_lr = 0.02
input_shape = (
    1,
    3,
    16,
    16,
)
interval = 2
load_from = None
log_level = 'INFO'
lr_ratio = 0.5
model = dict(
    algorithm=dict(
        architecture=dict(
            _scope_='mmcls',
            backbone=dict(
                base_channels=8,
                depth=18,
                dilations=(1, ),
                num_stages=1,
                out_indices=(0, ),
                stem_channels=8,
                strides=(1, ),
                style='pytorch',
                type='ResNet_CIFAR'),
            data_preprocessor=dict(
                mean=[
                    60.0,
                    60.0,
                    60.0,
                ],
                num_classes=10,
                std=[
                    90.0,
                    90.0,
                    90.0,
                ],
                to_rgb=False),
            head=dict(
                in_channels=8,
                loss=dict(type='CrossEntropyLoss'),
                num_classes=10,
                type='LinearClsHead'),
            neck=dict(type='GlobalAveragePooling'),
            type='ImageClassifier'),
        init_cfg=dict(
            checkpoint='runs/prune/flops_0.75.pth', type='Pretrained'),
        interval=2,
        mutator=dict(
            channel_unit_cfg=dict(
                mutate_linear=True,
                normalization_type='act',
                type='mmprune.GroupFisherChannelUnit'),
            demo_input=dict(
                input_shape=(
                    1,
                    3,
                    16,
                    16,
                ), type='mmprune.DemoInput'),
            type='mmprune.GroupFisherChannelMutator'),
        type='mmprune.GroupFisherAlgorithm'),
    divisor=1,
    type='mmprune.GroupFisherSubModel')
model_wrapper_cfg = dict(
    broadcast_buffers=False,
    find_unused_parameters=False,
    type='mmprune.PortableDDP')
normalization_type = 'act'
optim_wrapper = dict(optimizer=dict(lr=0.02, momentum=0.9, type='SGD'))
pretrained_path = 'dense.pth'
pruned_path = 'runs/prune/flops_0.75.pth'
randomness = dict(deterministic=False, seed=0)
resume = False
target_flop_ratio = 0.75
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=10)
train_dataloader = dict(
    batch_size=8,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        indices=48,
        pipeline=[
            dict(scale=(
                20,
                20,
            ), type='Resize'),
            dict(crop_size=16, type='RandomCrop'),
            dict(direction='horizontal', prob=0.5, type='RandomFlip'),
            dict(type='PackClsInputs'),
        ],
        split='train',
        type='mmprune.Digits'),
    num_workers=0,
    sampler=dict(shuffle=True, type='DefaultSampler'))
vis_backends = [
    dict(_scope_='mmcls', type='LocalVisBackend'),
]
visualizer = dict(
    _scope_='mmcls',
    type='ClsVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
work_dir = 'runs/finetune'
