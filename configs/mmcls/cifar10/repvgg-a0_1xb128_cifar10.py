# RepVGG-A0 on CIFAR-10: the stem and the first stage keep the resolution.
_base_ = './vgg16_1xb128_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='RepVGG', arch='A0', strides=(1, 2, 2, 2), out_indices=(3, )),
    head=dict(in_channels=1280))
