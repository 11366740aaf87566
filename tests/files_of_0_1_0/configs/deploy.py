_base_ = './dense.py'
fix_subnet = 'runs/finetune/fix_subnet.json'
divisor = 4
input_shape = (1, 3, 16, 16)

from mmprune.config import deploy_model  # noqa: E402

model = deploy_model(_base_, fix_subnet, divisor, input_shape, mutate_linear=True)
