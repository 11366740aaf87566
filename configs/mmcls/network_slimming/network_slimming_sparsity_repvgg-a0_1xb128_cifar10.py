# The config that the dense model is trained with.
_base_ = '../cifar10/repvgg-a0_1xb128_cifar10.py'
# Strength of the penalty on the scales of the norms.
s = 1e-4

custom_hooks = [dict(type='mmprune.SparsityTrainingHook', s=s)]
