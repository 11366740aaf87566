"""What a repair is worth on images that it has not seen, and whether more views of the same images help.

MMPRUNE_DATA=... python benchmarks/repair_unseen_images.py
MMPRUNE_DATA=... python benchmarks/repair_unseen_images.py --share 0.85 --rows own mirrored

MobileNetV2 is cut once, by scores of the even images of the sample of 1,000; then the same cut network is repaired by
different images, and its outputs are compared with the dense ones on the even and on the odd images.
"""
import argparse
import copy
import math
from typing import Callable, Dict, List, Tuple

import computing
import torch
from computing import Computing
from repair_imagenet_sample import BATCH
from repair_table import ImageNetSample, accuracy
from torch import Tensor, nn
from torch.nn import functional

from mmprune.command_line import run
from mmprune.pruning.pruner import Pruner

Batches = List[Tuple[Tensor, Tensor]]
#: Share of an image's area that a crop has at least.
LEAST_AREA = 0.4


def crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random square part of each image ``Tensor[N, C, S, S]``, at the size of the whole; half are mirrored."""
    found, size = [], images.size(3)
    for image in images:
        area, top, left, mirrored = torch.rand(4, generator=generator).tolist()
        side = int(size * math.sqrt(LEAST_AREA + (1 - LEAST_AREA) * area))
        top, left = (int(place * (size - side + 1)) for place in (top, left))
        part = functional.interpolate(image[None, :, top:top + side, left:left + side], size=size, mode='bilinear',
                                      align_corners=False)
        found.append(part.flip(3) if mirrored < 0.5 else part)
    return torch.cat(found)


def views(generator: torch.Generator) -> Dict[str, Callable[[Tensor], Tensor]]:
    """Return row -> what is made of a batch of images; views of an image stay in its batch, as some are held back."""
    return {'own': lambda images: images, 'other': lambda images: images,
            'mirrored': lambda images: torch.cat([images, images.flip(3)]),
            'crops': lambda images: crops(images, generator),
            'with a crop': lambda images: torch.cat([images, crops(images, generator)]),
            'with two crops': lambda images: torch.cat([images, *(crops(images, generator) for _ in range(2))])}


@torch.no_grad()
def outputs(model: nn.Module, batches: Batches) -> Tensor:
    """Return what a model returns for all images."""
    return torch.cat([model(images) for images, _ in batches])


def output_error(found: Tensor, wanted: Tensor) -> float:
    """Return the mean over images of the squared error of an image's outputs over their variance."""
    return float(((found - wanted).square().mean(1) / wanted.var(1, correction=0)).mean())


def main() -> None:
    """Print a row for each way to choose the images of the repair."""
    rows = views(torch.Generator().manual_seed(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--share', type=float, default=0.75, help='of the multiply-adds that stay (0.75)')
    parser.add_argument('--rows', nargs='+', choices=list(rows), default=list(rows), help='what repairs')
    computing.add_options(parser, amp=False)
    args = parser.parse_args()
    sample = ImageNetSample(Computing.of(args))
    even, odd = (sample.calibration(split, 500) for split in (0, 1))
    dense = sample.computing.placed(sample.model.eval())
    halves = [(batches, outputs(dense, batches)) for batches in (even, odd)]
    pruner = Pruner(copy.deepcopy(dense), torch.zeros(sample.shape), 'GroupFisher', target=dict(flops=args.share),
                    mutate_linear=sample.mutate_linear)
    pruner.calibrate([part for batch in even for part in zip(*(tensor.split(BATCH) for tensor in batch))], 'outputs')
    pruner.cut()
    pruner._calibration = None  # the images would be copied with it
    print('| repaired by | error, even images | error, odd images | top-1, even | top-1, odd | seconds |\n'
          '| --- | ---: | ---: | ---: | ---: | ---: |', flush=True)
    for row in args.rows:
        repaired = copy.deepcopy(pruner)
        seconds = repaired.repair([rows[row](images) for images, _ in (odd if row == 'other' else even)], dense).seconds
        errors = ' | '.join(f'{output_error(outputs(repaired.model, batches), wanted):.4f}'
                            for batches, wanted in halves)
        print(f'| {row} | {errors} | {accuracy(repaired.model, even):.1f} | {accuracy(repaired.model, odd):.1f} | '
              f'{seconds:.0f} |', flush=True)


if __name__ == '__main__':
    run(main)
