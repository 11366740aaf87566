# The finetune config.
_base_ = './group_fisher_act_finetune_retinanet_r18_fpn_bccd.py'
# The checkpoint of the dense model, which teaches.
teacher_path = 'work_dirs/retinanet_r18_fpn_bccd/epoch_20.pth'

from mmprune.config import distilled_model  # noqa: E402

# The student imitates where each channel of the pyramid is active.
model = distilled_model(_base_, teacher_path, dict(type='mmprune.ChannelWiseDivergence', loss_weight=5.0),
                        [f'neck.fpn_convs.{level}.conv' for level in range(5)])
