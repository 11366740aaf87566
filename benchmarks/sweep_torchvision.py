"""Prune every classification model of torchvision: what mask() computes against what cut() computes, in float64.

OMP_NUM_THREADS=1 nice -n 10 python benchmarks/sweep_torchvision.py                # what has no result yet, then
OMP_NUM_THREADS=1 nice -n 10 python benchmarks/sweep_torchvision.py --only vgg11 'swin*' --again
python benchmarks/sweep_torchvision.py --only - --markdown docs/torchvision.md     # the page, without a run

Models run from small to large, each in a process of its own with a limit of memory and of time. Results are kept as
lines of json, the last of a model counts, so that a sweep can be interrupted and go on.
"""
import argparse
import datetime
import fnmatch
import json
import os
import platform
import random
import sys
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Tuple

import isolated
import torch
import torchvision
from isolated import GIB, available_gib, read
from sweep_models import reasons
from torch import nn
from torchvision import models

from mmprune import Pruner
from mmprune.command_line import device
from mmprune.criteria.criterion import build_criterion
from mmprune.files import write_text
from mmprune.pruning.target import PruningTarget
from mmprune.report import proof as check
from mmprune.units.counted_macs import counted_macs
from mmprune.units.equivalence import outputs, randomise, relative_difference

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1e-10
#: How far masking must move the outputs, so that a cut of something else would be seen.
MOVED = 1e-3
#: What must be left to prune: convolutions with batch norm; elsewhere the hidden units of the MLPs.
SHARE, TOKEN_SHARE = 0.8, 0.5
RATIO = 0.4
#: Bytes a parameter that a run needs at most: float32, and in float64 the trial's copy, its cut and its masked one.
BYTES = 26
MODES = ('eval', 'train')

#: Height and width of the images, where it is not 64.
SIZES = {
    'inception_v3': 299,  # its auxiliary head, in training, pools 17 x 17 positions
    'maxvit_t': 224,  # its windows are 7 x 7 at strides of 4 to 32
    **{f'swin_{width}': 112 for width in 'tsb'},  # smaller ones are mostly padding of the windows
    **{f'swin_v2_{width}': 128 for width in 'tsb'},
    'vit_h_14': 56, 'googlenet': 96, **{f'vgg{depth}{norm}': 32 for depth in (11, 13, 16, 19) for norm in ('', '_bn')}}


#: The largest architectures with fewer blocks or channels, since they may not fit where this runs; their parameters.
REDUCED = {'vit_h_14 with 4 of 32 blocks': 80_000_000, 'regnet_y_128gf with 1/4 of the width': 41_000_000}


def size_of(name: str) -> int:
    return SIZES.get(name.partition(' ')[0], 64)


def names() -> List[str]:
    """Return all classification models, from the fewest parameters to the most."""
    return sorted(models.list_models(module=models), key=published_params)


def published_params(name: str) -> int:
    return REDUCED[name] if name in REDUCED else models.get_model_weights(name).DEFAULT.meta['num_params']


def needed_gib(name: str) -> float:
    return BYTES * published_params(name) / GIB


def build(name: str) -> nn.Module:
    """Return a model with random weights, in float32, no channel of which is like another."""
    options: Dict[str, Any] = dict(weights=None)
    if name in ('googlenet', 'inception_v3'):  # their own initialisation takes a minute
        options['init_weights'] = False
    if name.startswith('vit_'):
        options['image_size'] = size_of(name)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # torch's meshgrid, in MaxVit
        model = reduced(name) if name in REDUCED else models.get_model(name, **options)
    randomise(model, seed=0)
    return model


def reduced(name: str) -> nn.Module:
    if name.startswith('vit_h_14'):
        return models.VisionTransformer(size_of(name), 14, num_layers=4, num_heads=16, hidden_dim=1280, mlp_dim=5120)
    params = models.regnet.BlockParams.from_init_params(27, 112, 40.2, 2.52, group_width=66, se_ratio=0.25)
    return models.RegNet(params, norm_layer=partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1))


def sweep(model: nn.Module, size: int, backward: bool = True) -> Dict[str, Any]:
    """Prune one model by two criteria; return what was found, as plain values.

    Args:
        model (nn.Module): Dense, in float32, on the device where it runs; it is cut.
        size (int): Height and width of the images.
        backward (bool): Run a backward pass through the cut model, too.
    """
    device = next(model.parameters()).device
    start = time.perf_counter()
    pruner = Pruner(model, torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)), 'L2', RATIO)
    seconds, mutator = time.perf_counter() - start, pruner.mutator
    state = model.state_dict()  # with its versions, which MNASNet asks for
    for key, value in state.items():
        state[key] = value.clone()  # exact: float64 holds every float32
    model.double()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(device)
    result = dict(units=len(mutator.units), reasons=reasons(mutator), seconds=seconds, size=size,
                  params=mutator.cost['params'], macs=mutator.cost['macs'], share=check.prunable_share(mutator),
                  unaccounted=check.unaccounted_layers(mutator))
    dense = outputs(model, lambda net: net(images), False)
    result['L2'] = compare(pruner, images, dense)
    mutator.cut({unit.name: unit.kept | True for unit in mutator.units})  # dense again, for the next criterion
    model.load_state_dict(state)
    del state
    pruner.criterion = build_criterion(dict(type='Random', seed=1), mutator)
    draw = random.Random(0)
    shares = {member.axis.layer: draw.uniform(RATIO - 0.1, RATIO + 0.1)
              for unit in mutator.units for member in unit.channels.producers}
    pruner.target = PruningTarget.of(dict(ratio=RATIO, scope='layer', levels=shares))
    result['Random'] = compare(pruner, images, dense)
    result['backward'] = check.runs_backward(model, lambda net: net(images)) if backward else None
    return result


def compare(pruner: Pruner, images: torch.Tensor, dense: List[torch.Tensor]) -> Dict[str, Any]:
    """Mask, run, cut and run; in train mode the running statistics are those of the dense model, both times."""
    model = pruner.mask()
    masked = both_modes(model, images)
    pruner.cut()
    cut = both_modes(model, images)
    cost = pruner.mutator.cost
    return dict(eval=relative_difference(masked[0], cut[0]), train=relative_difference(masked[1], cut[1]),
                moved=relative_difference(dense, masked[0]), macs=cost['macs'], params=cost['params'],
                same_shapes=[x.shape for x in dense] == [x.shape for x in cut[0]],
                finite=all(bool(x.isfinite().all()) for mode in (*masked, *cut) for x in mode),
                counted=[counted_macs(model, lambda net: net(images[:1].float())),
                         sum(parameter.numel() for parameter in model.parameters())])


def both_modes(model: nn.Module, images: torch.Tensor) -> Tuple[List[torch.Tensor], List[torch.Tensor]]:
    """Return the outputs in eval and in train mode; the model's buffers are as before."""
    return isolated.run(model, images, False), isolated.run(model, images, True)


def problems(name: str, result: Dict[str, Any]) -> List[str]:
    """Return what a result lacks."""
    if 'error' in result:
        return [result['error']]
    found = []
    for criterion in ('L2', 'Random'):
        one = result[criterion]
        found += [f'{criterion}, {mode}: {one[mode]:.1e}' for mode in MODES if not one[mode] < LIMIT]
        found += [f'{criterion}: not {key}' for key in ('same_shapes', 'finite') if not one[key]]
        if not one['moved'] > MOVED:
            found.append(f'{criterion}: masking moves the outputs by {one["moved"]:.1e} only')
        if one['counted'] != [one['macs'], one['params']]:
            found.append(f'{criterion}: MACs and parameters {one["macs"]}, {one["params"]} by arithmetic, '
                         f'{one["counted"]} counted')
    if result['backward'] is False:
        found.append('backward')
    if result['unaccounted']:
        found.append(f'unaccounted: {", ".join(result["unaccounted"])}')
    tokens = name.startswith(('vit', 'swin', 'maxvit', 'convnext'))
    if result['share'] < (TOKEN_SHARE if tokens else SHARE):
        found.append(f'only {result["share"]:.0%} of the MACs can go')
    return found


def in_process(name: str, device: str, limit: float, timeout: float) -> Dict[str, Any]:
    """Sweep a model on a device, in a process of its own, which may take so many GiB and seconds."""
    return isolated.in_process(lambda model: sweep(build(model).to(device), size_of(model)), name, limit, timeout)


def row(name: str, result: Dict[str, Any]) -> str:
    """Return a line of the table."""
    size = size_of(name)
    if 'error' in result:
        return f'| {name} | {size} | {published_params(name) / 1e6:.1f} | | | | | | | {result["error"]} |'
    differences = ' | '.join(f'{max(result[one][mode] for one in ("L2", "Random")):.1e}' for mode in MODES)
    cost = ' | '.join(f'{result["L2"][key] / result[key]:.0%}' for key in ('macs', 'params'))
    frozen = sum(result['reasons'].values())
    return (f'| {name} | {result["size"]} | {result["params"] / 1e6:.1f} | {result["units"]} | {differences} | '
            f'{cost} | {result["share"]:.0%} | {frozen or "-"} | {result["cpu_seconds"]:.0f} |')


HEADLINE = '''# torchvision's classification models

`OMP_NUM_THREADS=1 python benchmarks/sweep_torchvision.py --markdown docs/torchvision.md`, {date}, {machine}.

All {count} models of `torchvision.models.list_models(module=torchvision.models)`: those for classification, none that
is quantized or for detection, segmentation or video. Weights are random (nothing is said about accuracy), norms and
layer scales have random values, so that no channel is like another. Each goes through `mmprune.Pruner` twice: by
`L2` with 40 % of every unit, and by `Random` with a share of its own for every unit, 30 to 50 %. The outputs of
`mask()` and then of `cut()`, of the same Pruner in float64 on two images, are compared in eval and in train mode;
*eval* and *train* are the largest difference of both criteria, over the largest output (limit 1e-10). Checked, too:
masking moves the outputs ({moved:.0%} of the largest at least, so that a wrong cut would be seen); their shapes are
unchanged; a backward pass through the cut model gives finite gradients; multiply-adds and parameters of the structure
equal those that are counted while the cut model runs; each channel of each conv and linear layer is in a unit or
frozen with a reason.

*MACs left* and *params left* are those of the `L2` cut; *MACs that can go* is the share that goes if every unit is
cut to one channel; *frozen* is the number of groups of channels that stay, image and outputs apart, with their reasons
below; *CPU* is the seconds of all of this, trace and trial cut included, on one thread of a busy machine. *Input* is
small, but keeps all parts of the model at work, auxiliary heads and windows included; ViTs are built for it
(`image_size`, which changes the position embedding only). Dropout is off; stochastic depth drops the same blocks both
times.

{verdict}

| model | input | params, M | units | eval | train | MACs left | params left | MACs that can go | frozen | CPU, s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
'''


WHY = '''## Why channels are frozen

In ViT, Swin, Swin V2 and MaxViT heads, their dimensions, hidden units and the stream go ([attention.md](attention.md)),
in ConvNeXt hidden units and the stream of each stage. The position bias of Swin V2 is made from two coordinates, which
nothing in the model makes. ShuffleNetV2 shuffles the halves of a stage's stream until each of its channels meets every
other one, for some widths. Auxiliary heads only run in training.'''


def frozen_table(results: Dict[str, Dict[str, Any]]) -> str:
    """Return the reasons with the models they are met in."""
    total: Counter = Counter()
    where: Dict[str, List[str]] = {}
    for name, result in results.items():
        for text, count in result.get('reasons', {}).items():
            total[text] += count
            where.setdefault(text, []).append(f'{name} {count}')
    lines = [WHY, '', '| reason | groups | models, with groups in each |',
             '| --- | ---: | --- |']
    return '\n'.join([*lines, *(f'| {text} | {count} | {", ".join(where[text])} |'
                                for text, count in total.most_common())])


def document(results: Dict[str, Dict[str, Any]]) -> str:
    """Return the page."""
    everything = names()
    found = {name: results[name] for name in [*everything, *REDUCED] if name in results}
    good = {name: result for name, result in found.items() if 'error' not in result}
    bad = {name: texts for name in found if (texts := problems(name, found[name]))}
    ran = len([name for name in good if name in everything])
    parts = [f'{ran} of {len(everything)} models ran; the largest difference is '
             f'{max(result[one][mode] for result in good.values() for one in ("L2", "Random") for mode in MODES):.1e}; '
             f'{sum(result["cpu_seconds"] for result in found.values() if "cpu_seconds" in result) / 60:.0f} minutes '
             f'of one core, {max(result["peak_gib"] for result in good.values()):.1f} GiB of memory at most.',
             'Everything holds in those.' if not bad else
             'These do not hold: ' + '; '.join(f'{name} ({", ".join(texts)})' for name, texts in bad.items()) + '.']
    if missing := [name for name in everything if name not in found]:
        parts.append('Not run, with an estimate of the memory they need: ' + ', '.join(
            f'{name} ({needed_gib(name):.1f} GiB)' for name in missing) + '.')
    if any(name in found for name in REDUCED):
        parts.append('The last rows are the two largest architectures with fewer blocks or channels.')
    machine = f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, torchvision ' \
              f'{torchvision.__version__}'
    moved = min(result[one]['moved'] for result in good.values() for one in ('L2', 'Random'))
    head = HEADLINE.format(date=datetime.date.today(), machine=machine, count=len(everything), moved=moved,
                           verdict='\n'.join(parts))
    return head + '\n'.join(row(name, result) for name, result in found.items()) + '\n\n' + frozen_table(good) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=['*'], help='names or patterns (default: all)')
    parser.add_argument('--again', action='store_true', help='run models that have a result too')
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs' / 'sweep_torchvision.jsonl')
    parser.add_argument('--memory', type=float, default=21.0, help='GiB that a model may take (21)')
    parser.add_argument('--seconds', type=float, default=900.0, help='that a model may take (900)')
    parser.add_argument('--device', type=device, default='cpu', help='where models are run (cpu)')
    parser.add_argument('--markdown', type=Path, help='write the page to this file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in sorted([*names(), *REDUCED], key=published_params):
        done = not args.again and name in read(args.results)  # by another run, too
        if done or not any(fnmatch.fnmatch(name, pattern) for pattern in args.only):
            continue
        need = needed_gib(name)
        if need > min(args.memory, available_gib() - 2):
            print(f'{name}: left out, it needs {need:.1f} GiB and {available_gib():.1f} are free', flush=True)
            continue
        result = in_process(name, args.device, args.memory, args.seconds)
        with args.results.open('a') as file:
            file.write(json.dumps(result) + '\n')
        print(row(name, result), f'{result.get("peak_gib", 0):.1f} GiB', flush=True)
        for problem in problems(name, result):
            failed = True
            print(f'  FAILS: {name}: {problem}', flush=True)
    if args.markdown:
        write_text(document(read(args.results)), args.markdown)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
