"""Prune networks that nobody wrote for mmprune, and compare what mask() computes with what cut() computes, in float64.

bash tools/setup_env.sh benchmarks                                                 # what it runs in
OMP_NUM_THREADS=1 python benchmarks/sweep_foreign.py                               # what has no result yet, then
OMP_NUM_THREADS=1 python benchmarks/sweep_foreign.py --only mixnet_s 'smp *' --again
python benchmarks/sweep_foreign.py --only - --markdown docs/foreign.md             # the page, without a run

Each network runs in a process of its own with a limit of memory and of CPU time. Results are kept as lines of json, the
last of a network counts, so that a sweep can be interrupted and go on. Networks of packages that are not installed are
left out.
"""
import argparse
import ctypes
import datetime
import fnmatch
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import torch
from foreign_models import Entry, build, entries
from isolated import in_process, peak_bytes, read, run
from sweep_models import reasons
from torch import nn

from mmprune import Pruner
from mmprune.command_line import device
from mmprune.files import write_text
from mmprune.report import proof as check
from mmprune.units.equivalence import outputs, randomise, relative_difference
from mmprune.units.mutator import NoPrunableUnitError
from mmprune.units.reasons import kind_of

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1e-10
#: How far masking must move the outputs, so that a cut of something else would be seen.
MOVED = 1e-5
RATIO = 0.5
PACKAGES = ('torch', 'torchvision', 'timm', 'transformers', 'segmentation-models-pytorch', 'ultralytics', 'mmpretrain',
            'mmdet', 'mmsegmentation')


def sweep(name: str, device: str) -> Dict[str, Any]:
    """Prune one network on a device; return what was found, as plain values."""
    entry: Entry = entries()[name]
    model, size = build(entry)
    model.to(device)
    weights = sum(parameter.numel() for parameter in model.parameters())
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    load_libraries(model, image)
    before, start = peak_bytes(reset=True), time.process_time()
    found: Dict[str, Any] = dict(size=size, params=weights)
    try:
        pruner = Pruner(model, image, 'L2', RATIO)
    except NoPrunableUnitError as error:
        return dict(found, refused=str(error), seconds=time.process_time() - start,
                    memory=(peak_bytes() - before) / (4 * weights))
    found.update(seconds=time.process_time() - start, memory=(peak_bytes() - before) / (4 * weights),
                 units=len(pruner.mutator.units), reasons=reasons(pruner.mutator),
                 unaccounted=check.unaccounted_layers(pruner.mutator), kinds=kinds_of(pruner))
    if found['kinds']:
        found['random'] = check.verify(pruner.mutator, RATIO)['max_relative_difference']
    randomise(model, seed=1)
    model.double()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return dict(found, **compare(pruner, images.to(device)))


def kinds_of(pruner: Pruner) -> List[str]:
    """Return which kinds of a transformer's units there are: heads, query-key and value dimensions, the stream."""
    found = {unit.channels.part or kind_of(unit.channels) for unit in pruner.mutator.units}
    return [kind for kind in ('heads', 'qk', 'v', 'stream') if kind in found]


def load_libraries(model: nn.Module, image: torch.Tensor) -> None:
    """Run the network, and prune another one: the code that every process loads once is none of a network's memory.

    What they have freed goes back to the system, so that it hides nothing.
    """
    outputs(model, lambda net: net(image), False)
    small = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    Pruner(small.to(image.device), image, 'L2', RATIO)
    ctypes.CDLL(None).malloc_trim(0)


def compare(pruner: Pruner, images: torch.Tensor) -> Dict[str, Any]:
    """Mask, run, cut and run, in eval mode and, where the network can train on two images, in train mode."""
    dense = outputs(pruner.model, lambda net: net(images), False)
    model = pruner.mask()
    modes = [mode for mode in (False, True) if not mode or runs_in_training(model, images)]
    masked = [run(model, images, mode) for mode in modes]
    pruner.cut()
    cut = [run(model, images, mode) for mode in modes]
    cost, whole = pruner.mutator.cost, pruner.mutator.complexity.cost({})
    return dict(eval=relative_difference(masked[0], cut[0]), moved=relative_difference(dense, masked[0]),
                train=relative_difference(masked[1], cut[1]) if len(modes) > 1 else None,
                left=cost['macs'] / whole['macs'], same_shapes=[x.shape for x in dense] == [x.shape for x in cut[0]],
                finite=all(bool(x.isfinite().all()) for mode in (*masked, *cut) for x in mode))


def runs_in_training(model: nn.Module, images: torch.Tensor) -> bool:
    """Tell whether the dense network runs in train mode at all."""
    try:
        run(model, images, True)
    except (RuntimeError, ValueError, TypeError):
        return False
    return True


def verdict(result: Dict[str, Any]) -> str:
    """Return ``exact``, ``refused`` or what went wrong."""
    if 'error' in result:
        return f'crashed: {result["error"]}'
    if 'refused' in result:
        return 'refused'
    wrong = [f'{mode}: {result[mode]:.1e}' for mode in ('eval', 'train')
             if result[mode] is not None and not result[mode] < LIMIT]
    if not result.get('random', 0.0) < LIMIT:
        wrong.append(f'at random: {result["random"]:.1e}')
    wrong += [f'not {key}' for key in ('same_shapes', 'finite') if not result[key]]
    if not result['moved'] > MOVED:
        wrong.append(f'masking moves the outputs by {result["moved"]:.1e} only')
    if result['unaccounted']:
        wrong.append(f'unaccounted: {", ".join(result["unaccounted"])}')
    return f'wrong: {"; ".join(wrong)}' if wrong else 'exact'


def row(name: str, result: Dict[str, Any]) -> str:
    """Return a line of the table."""
    if 'error' in result:
        return f'| {name} | | | {verdict(result)} | | | | | | |'
    head = f'| {name} | {result["size"]} | {result["params"] / 1e6:.1f} | {verdict(result)} '
    kinds = ' '.join(result.get('kinds', ())) + (f' ({result["random"]:.0e})' if 'random' in result else '')
    tail = f'| {result["seconds"]:.1f} | {result["memory"]:.1f} | {kinds} |'
    if 'refused' in result:
        return f'{head}| | | {tail}'
    train = '-' if result['train'] is None else f'{result["train"]:.0e}'
    return f'{head}| {result["eval"]:.0e} | {train} | {result["left"]:.0%} {tail}'


HEADLINE = '''# Networks that nobody wrote for mmprune

`OMP_NUM_THREADS=1 python benchmarks/sweep_foreign.py --markdown docs/foreign.md`, {date}, {machine}.

Each network has random weights, norms and layer scales with random values, and goes through
`mmprune.Pruner(model, image, 'L2', ratio=0.5)` with nothing else said. The outputs of `mask()` and then of `cut()` are
compared in float64 on two images, in eval and, where the dense network runs on them, in train mode: *exact* is a
difference below 1e-10 of the largest output, unchanged shapes, an effect of masking that can be seen, and every channel
of every conv and linear layer in a unit or frozen with a reason. *refused* is `NoPrunableUnitError`, whose message
says why; any other error is a crash. *left* is the share of the multiply-adds after the cut: 25 % where every channel
but those of image and output can go. *s* is the CPU time of building the Pruner on one thread, *memory* its peak
beyond that of a process that has run the model, over the float32 weights. *kinds* are those of a transformer's units:
heads, query-key and value dimensions, the stream; behind them the largest difference, in both modes, where a random
share of every unit goes, of all kinds together, three seeds.

{verdict}

'''
TABLE = ('| network | input | params, M | verdict | eval | train | left | s | memory | kinds |\n'
         '| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |\n')


def summary(found: Dict[str, Dict[str, Any]]) -> str:
    """Return how many were cut exactly, refused, or went wrong; shares, times and memory."""
    kinds = {name: verdict(result).partition(':')[0] for name, result in found.items()}
    counts = ', '.join(f'{list(kinds.values()).count(kind)} {kind}'
                       for kind in ('exact', 'refused', 'wrong', 'crashed'))
    lines = [f'{len(found)} networks: {counts}.']
    for kind in ('heads', 'qk', 'v', 'stream'):
        lines.append(f'{kind}: cut in {sum(kind in result.get("kinds", ()) for result in found.values())} networks.')
    lefts: Dict[str, List[float]] = {}
    for name, result in found.items():
        if 'left' in result:
            lefts.setdefault(entries()[name].family, []).append(result['left'])
    lines.append('Mean share of the multiply-adds left: ' + ', '.join(
        f'{family} {statistics.mean(values):.0%} of {len(values)}' for family, values in lefts.items()) + '.')
    timed = {name: result for name, result in found.items() if 'seconds' in result}
    for key, unit in (('seconds', ' s'), ('memory', ' times the weights')):
        worst = sorted(timed, key=lambda name: -timed[name][key])[:3]
        lines.append(f'{key.capitalize()}: median {statistics.median(one[key] for one in timed.values()):.1f}{unit}, '
                     'most ' + ', '.join(f'{timed[name][key]:.1f} ({name})' for name in worst) + '.')
    return '\n'.join(lines)


def document(results: Dict[str, Dict[str, Any]]) -> str:
    """Return the page."""
    found = {name: results[name] for name in entries() if name in results}
    installed = {one.name.replace('_', '-'): one.version for one in importlib.metadata.distributions()}
    versions = ', '.join(f'{package} {installed[package]}' for package in PACKAGES if package in installed)
    machine = f'{platform.machine()}, {os.cpu_count()} cores; {versions}'
    parts = [HEADLINE.format(date=datetime.date.today(), machine=machine, verdict=summary(found))]
    for family in dict.fromkeys(entry.family for entry in entries().values()):
        rows = [row(name, result) for name, result in found.items() if entries()[name].family == family]
        if rows:
            parts.append(f'## {family}\n\n{TABLE}' + '\n'.join(rows) + '\n')
    refused = [f'- {name}: {result["refused"].splitlines()[1].strip()}' for name, result in found.items()
               if 'refused' in result]
    return '\n'.join([*parts, *(['## Refused', '', *refused, ''] if refused else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=['*'], help='names or patterns (default: all)')
    parser.add_argument('--again', action='store_true', help='run networks that have a result too')
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs' / 'sweep_foreign.jsonl')
    parser.add_argument('--memory', type=float, default=12.0, help='GiB that a network may take (12)')
    parser.add_argument('--seconds', type=float, default=300.0, help='of CPU that a network may take (300)')
    parser.add_argument('--device', type=device, default='cpu', help='where networks are run (cpu)')
    parser.add_argument('--markdown', type=Path, help='write the page to this file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in entries():
        if not any(fnmatch.fnmatch(name, pattern) for pattern in args.only):
            continue
        if name in read(args.results) and not args.again:
            continue
        result = in_process(functools.partial(sweep, device=args.device), name, args.memory, 3 * args.seconds,
                            args.seconds)
        with args.results.open('a') as sink:
            sink.write(json.dumps(result) + '\n')
        print(row(name, result), flush=True)
        failed |= not verdict(result).startswith(('exact', 'refused'))
    print(summary({name: result for name, result in read(args.results).items() if name in entries()}))
    if args.markdown:
        write_text(document(read(args.results)), args.markdown)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
