# ResNet-32 of He et al. 2016 on CIFAR-10.
_base_ = './resnet20_1xb128_cifar10.py'

model = dict(backbone=dict(depth=32))
