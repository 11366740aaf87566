"""Run by two processes: an algorithm prunes 200 times on images of uneven sizes; what that took is written down."""
import json
import resource
import sys
from collections import Counter
from pathlib import Path

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from toy_nets import ToyClassifier, mutator_cfg, randomise

from mmprune.engine.distributed import GroupFisherDDP
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm

#: Height and width of the images on rank 0, 1.
SIZES = ((8, 8), (6, 10))
COLLECTIVES = ('all_reduce', 'broadcast', 'all_gather', 'reduce', 'all_gather_object', 'gather', 'barrier', 'scatter',
               'all_gather_into_tensor', 'reduce_scatter', 'broadcast_object_list', 'all_to_all')


def count_collectives(calls):
    """Count what Python code calls; DDP's own all_reduce of gradients lies below."""
    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)
        return call
    for name in COLLECTIVES:
        setattr(torch.distributed, name, counted(name, getattr(torch.distributed, name)))


def wide():
    """204 classes, so that 200 can go."""
    return nn.Sequential(nn.Conv2d(3, 104, 3, padding=1), nn.BatchNorm2d(104), nn.ReLU(), nn.Conv2d(104, 100, 1),
                         nn.ReLU(), nn.Conv2d(100, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def main(folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    model = GroupFisherDDP(GroupFisherAlgorithm(ToyClassifier(randomise(wide())), mutator_cfg('act')))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    generator = torch.Generator().manual_seed(rank)
    calls, memory = Counter(), []
    count_collectives(calls)
    for step in range(200):
        images = torch.randn(4, 3, *SIZES[rank], generator=generator)
        model.train_step(dict(inputs=images, data_samples=torch.randint(5, (4,), generator=generator)), wrapper)
        if step + 1 in (50, 200):
            memory.append(int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize())
    report = dict(calls=dict(calls), memory=memory, structure=model.module.mutator.structure,
                  events=sum(unit.width - unit.num_sets for unit in model.module.mutator.units),
                  parameters={name: parameter.detach().flatten().tolist()
                              for name, parameter in model.named_parameters()})
    Path(folder, f'rank{rank}.json').write_text(json.dumps(report))
    del model, wrapper  # torch may hang if the last to hold the group's threads is DDP, which is freed under the GIL
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(sys.argv[1])
