# The prune config.
_base_ = './group_fisher_act_prune_mobilenet-v2_imagenet-sample.py'
# The checkpoint that the prune run wrote at its target, and the dense teacher.
pruned_path = 'work_dirs/group_fisher_act_prune_mobilenet-v2_imagenet-sample/flops_0.90.pth'
teacher_path = 'work_dirs/mobilenet_v2.pth'
finetune_lr = 1e-3

from mmprune.config import distilled_model, finetune_settings  # noqa: E402

model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, pruned_path, finetune_lr)
model = distilled_model(dict(model=model), teacher_path)
train_cfg = dict(max_epochs=10)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=10, by_epoch=True, convert_to_iter_based=True)]
# One image a class: the labels of the training images are half of the classes, and would unlearn the other half. The teacher
# alone teaches.
model['student']['algorithm']['architecture']['head']['loss']['loss_weight'] = 0.0
