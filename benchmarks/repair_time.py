"""How long a repair takes and how much memory the process then had: a network of torchvision with random weights.

python benchmarks/repair_time.py resnet50 --threads 2
python benchmarks/repair_time.py mobilenet_v2 --images 256 --flops 0.85

Cut by L2 norms, repaired by random images in batches of 25. Weights and images decide nothing about time, but for the
turns that a solution behind a clamp takes.
"""
import argparse
import copy
import resource

import computing
import torch
import torchvision
from computing import Computing

from mmprune.command_line import run
from mmprune.pruning.pruner import Pruner

SHAPE, BATCH = (1, 3, 224, 224), 25


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('network', help='of torchvision, such as resnet50')
    parser.add_argument('--images', type=int, default=500, help='that the layers are solved by (500)')
    parser.add_argument('--flops', type=float, default=0.7, help='share of the multiply-adds that stays (0.7)')
    computing.add_options(parser, amp=False)
    args = parser.parse_args()
    place = Computing.of(args)
    torch.manual_seed(0)
    dense = place.placed(torchvision.models.get_model(args.network).eval())
    pruner = Pruner(copy.deepcopy(dense), place.placed(torch.zeros(SHAPE)), 'L2', target=dict(flops=args.flops),
                    mutate_linear=False)
    pruner.cut()
    images = [place.placed(torch.randn(len(some), *SHAPE[1:])) for some in torch.arange(args.images).split(BATCH)]
    found = pruner.repair(images, dense)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f'{args.network} at {args.flops:g} of its multiply-adds, {args.images} images, {args.threads} threads of '
          f'{place.name}: {len(found.layers)} layers in {found.seconds:.0f} s, {peak:.2f} GiB at most')


if __name__ == '__main__':
    run(main)
