# PAA without GroupNorm in its head: a norm over groups of channels lets them go by whole groups only.
# No checkpoint of it is published; tools/train.py trains it.
_base_ = 'mmdet::paa/paa_r50_fpn_1x_coco.py'
model = dict(bbox_head=dict(norm_cfg=None))
