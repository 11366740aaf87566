# DINOv2's ViT-S/14 (Oquab et al., TMLR 2024) with a linear head, all of it finetuned on ImageNet.
_base_ = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
# What it starts from: a file or a URL.
backbone_path = ('https://download.openmmlab.com/mmpretrain/v1.0/dinov2/'
                 'vit-small-p14_dinov2-pre_3rdparty_20230426-5641ca5a.pth')

model = dict(
    backbone=dict(
        arch='dinov2-small', img_size=518, patch_size=14, layer_scale_init_value=1e-5,
        init_cfg=dict(type='Pretrained', checkpoint=backbone_path, prefix='backbone')))
optim_wrapper = dict(optimizer=dict(lr=5e-5))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=10, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=10)
