# VGG-11 with norms and one linear layer on CIFAR-10.
_base_ = './vgg16_1xb128_cifar10.py'

model = dict(backbone=dict(depth=11))
