# The config that the dense model is trained with.
_base_ = 'mmcls::resnet/resnet50_8xb32_in1k.py'
# Strength of the penalty on the scales of the norms.
s = 1e-4

custom_hooks = [dict(type='mmprune.SparsityTrainingHook', s=s)]
