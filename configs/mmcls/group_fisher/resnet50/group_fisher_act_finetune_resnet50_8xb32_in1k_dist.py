# The finetune config.
_base_ = './group_fisher_act_finetune_resnet50_8xb32_in1k.py'
# The checkpoint of the dense teacher: a file or a URL.
teacher_path = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth'

from mmprune.config import distilled_model  # noqa: E402

model = distilled_model(_base_, teacher_path)
