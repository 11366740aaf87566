"""A prune step between two events asks the device for nothing and launches little more than its taps."""
from collections import Counter

import pytest
import torch
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from torch.utils._python_dispatch import TorchDispatchMode

from mmprune.config import group_fisher_model
from mmprune.registry import MODELS

#: What makes the host wait for a GPU.
SYNCHRONISING = ('_local_scalar_dense', 'nonzero', 'masked_select', 'is_nonzero', '_to_copy', 'equal', 'unique')
#: Operations that only look at memory in another way, and launch nothing.
VIEWS = ('view', 'detach', 'alias', 'expand', 'slice', 'select', 'as_strided', 't', 'transpose', 'unsqueeze',
         'squeeze', 'permute', '_unsafe_view', 'lift_fresh', 'unbind', 'split')


class Count(TorchDispatchMode):

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        if func.overloadpacket.__name__ == 'index' and any(
                isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]):
            self.calls['nonzero'] += 1  # indices by a mask
        return func(*args, **(kwargs or {}))


def calls_of(model, wrapper, batch):
    model.train_step(batch(), wrapper)
    with Count() as count:
        model.train_step(batch(), wrapper)
    return count.calls


@pytest.fixture(scope='module')
def counted():
    """Return the calls of a plain step and of a prune step of ResNet-50, and how many taps recorded."""
    cfg = get_config('mmcls::resnet/resnet50_8xb32_in1k.py')
    init_default_scope('mmcls')
    from mmcls.structures import ClsDataSample
    model = group_fisher_model(cfg, '', 10**9, 'act', (1, 3, 64, 64))
    model.pop('_delete_')
    model['architecture'].pop('init_cfg')
    model['mutator']['trial_cut'] = False
    algorithm = MODELS.build(model).train()
    plain = MODELS.build(model['architecture']).train()

    def batch():
        return dict(inputs=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
                    data_samples=[ClsDataSample().set_gt_label(3) for _ in range(2)])

    calls = []
    for one in (plain, algorithm):
        calls.append(calls_of(one, OptimWrapper(torch.optim.SGD(one.parameters(), lr=1e-4, momentum=0.9)), batch))
    return calls[0], calls[1], len(algorithm.mutator.taps.layers)


def test_host_does_not_wait(counted):
    plain, step, _ = counted
    assert {name: step[name] - plain[name] for name in SYNCHRONISING if step[name] > plain[name]} == {}


def test_few_launches_besides_the_taps(counted):
    plain, step, taps = counted
    assert taps == 50  # not the stem, nor the two that read the channels of the last stage, which stay for the head
    launches = [sum(count for name, count in calls.items() if name not in VIEWS) for calls in (plain, step)]
    own = 3 * taps  # zeros, a product, a sum over positions
    print(f'plain {launches[0]}, prune {launches[1]}: {launches[1] - launches[0] - own} besides the {own} of the taps')
    assert launches[1] - launches[0] - own <= 0.02 * (launches[0] + own)
