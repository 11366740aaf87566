# The dense model trained on for as long as pruning and finetuning take (639 iterations and 6 epochs: 7.6 epochs), with the
# finetuning's schedule: what the same total budget gives without pruning.
_base_ = './resnet18-narrow_cifar10.py'
load_from = 'work_dirs/resnet18-narrow_cifar10/epoch_6.pth'
epochs = 8
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=epochs)
