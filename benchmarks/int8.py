"""INT8 after pruning in onnxruntime: what it costs and what it gives; writes docs/int8.md.

MMPRUNE_DATA=... python benchmarks/int8.py accuracy      # MobileNetV2 with its ImageNet weights, dense and pruned
MMPRUNE_DATA=... python benchmarks/int8.py files         # writes the networks whose times are taken
python benchmarks/int8.py times                          # dense and pruned, float and INT8; leave the machine idle
python benchmarks/int8.py blocks                         # of which multiples the integer kernels want channels
python benchmarks/int8.py page                           # writes docs/int8.md

MobileNetV2 is torchvision's (MMPRUNE_DATA/mobilenet_v2-b0353104.pth) on a sample of 1,000 images: the even ones prune,
repair and give the ranges, the odd ones are the test. Its pruned network has 0.85 of the multiply-adds, in two rounds
with a repair after each (repair_imagenet_sample.py). For times, ResNet-50 and MobileNetV2 lose half of their
multiply-adds in whole blocks of 16 channels; weights change no time. What is done is kept in the work folder and not
done again.
"""
import argparse
import datetime
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import onnxruntime
import repair_imagenet_sample
import torch
from computing import Computing
from repair_table import ImageNetSample
from torch import Tensor, nn

from mmprune.command_line import run
from mmprune.deploy.int8_times import IMAGES, Int8Times, int8_files, int8_times
from mmprune.deploy.machine import cpu_name
from mmprune.deploy.onnx_export import export_onnx
from mmprune.deploy.onnx_runtime import OnnxModel
from mmprune.deploy.quantization import FORMATS, Quantizer
from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime
from mmprune.deploy.sensitivity import Search, Sensitivity, least_in_float
from mmprune.deploy.timing import Candidate, measure
from mmprune.files import read_json, write_json, write_text
from mmprune.latency.block import RUNS, SIZE, WIDTHS, block_of, small_network
from mmprune.pruning.pruner import Pruner

ROOT = Path(__file__).resolve().parents[1]
SHARES = [0.92, 0.85]
CALIBRATION = 128
NETWORKS = ('resnet50', 'mobilenet_v2')
COMMAND = 'python benchmarks/int8.py'


class Results:
    """A json file whose parts are not measured again."""

    def __init__(self, work: Path) -> None:
        self.work, self.path = work, work / 'int8.json'
        self.found: Dict[str, Any] = read_json(self.path, 'results') if self.path.exists() else {}

    def add(self, part: str, key: str, value: Any) -> None:
        """Keep a result, with the date and the machine."""
        about = dict(date=datetime.date.today().isoformat(),
                     machine=f'{cpu_name()}, {os.cpu_count()} cores; onnxruntime {onnxruntime.__version__}')
        self.found.setdefault(part, {})[key] = dict(value, **about)
        write_json(self.found, self.path)
        print(part, key, value, flush=True)

    def has(self, part: str, key: str) -> bool:
        """Tell whether a result is there."""
        return key in self.found.get(part, {})


def mobilenets(work: Path) -> Dict[str, nn.Module]:
    """Return MobileNetV2 with its weights, and pruned and repaired by the even images."""
    sample = ImageNetSample(Computing())
    pruner = repair_imagenet_sample.rows(sample, 'even', SHARES, 'outputs', 'GroupFisher', work)
    return dict(dense=sample.model.eval(), pruned=pruner.model.eval())


def top1(path: Path, batches: List[Any]) -> float:
    """Return the top-1 accuracy of a file, in per cent."""
    model = OnnxModel(path)
    right = sum(int((model(images.contiguous())[0].argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * right / sum(len(labels) for _, labels in batches)


def accuracy(results: Results) -> None:
    """Measure what INT8 costs MobileNetV2, with all layers quantised and with those in float that a search leaves."""
    sample = ImageNetSample(Computing())
    images = [image.contiguous() for batch, _ in sample.calibration(0, CALIBRATION) for image in batch.split(1)]
    test = sample.test(0)
    for name, model in mobilenets(results.work).items():
        if results.has('accuracy', name):
            continue
        path = results.work / f'mobilenet_v2_{name}_real.onnx'
        export_onnx(model.to(memory_format=torch.contiguous_format), images[0], path, True)
        quantizer = Quantizer(path, images)
        sensitivity = Sensitivity(quantizer, images[:8])
        decibels = sensitivity.choose_percentile()
        before, out = top1(path, test), results.work / f'mobilenet_v2_{name}_int8.onnx'
        found = {form: top1(quantizer.write(out, form), test) for form in FORMATS}

        searched = half_a_point(sensitivity, out, before, test)
        results.add('accuracy', name, dict(
            float=before, **found, percentile=quantizer.percentile, decibels=decibels,
            layers=len(quantizer.network.layers), left=len(searched.left_in_float), drop=searched.drop))


def half_a_point(sensitivity: Sensitivity, out: Path, before: float, test: List[Any]) -> Search:
    """Return the search for the layers that must stay in float for a loss of half a point."""

    def drop(left: Sequence[str]) -> float:
        return before - top1(sensitivity.quantizer.write(out, left_in_float=left), test)

    return least_in_float(lambda: [layer for layer, _ in sensitivity.ranked()], drop, 0.5)


def files(results: Results) -> None:
    """Write the networks whose times are taken."""
    from torchvision import models  # of the full environment only
    batches = ImageNetSample(Computing()).calibration(0, IMAGES)
    images = [image.contiguous() for batch, _ in batches for image in batch.split(1)]
    for name in NETWORKS:
        if results.has('files', name):
            continue
        torch.manual_seed(0)
        dense = getattr(models, name)().eval()
        pruner = Pruner(getattr(models, name)().eval(), torch.zeros(1, 3, 224, 224), 'L2',
                        target=dict(flops=0.5, align=16))
        pruner.cut()
        pair = {}
        for kind, model in (('dense', dense), ('pruned', pruner.model)):
            pair[kind] = results.work / f'{name}_{kind}.onnx'
            export_onnx(model, images[0], pair[kind])
        folder = results.work / name
        folder.mkdir(exist_ok=True)
        share = pruner.mutator.cost['macs'] / pruner.mutator.complexity.cost({})['macs']
        results.add('files', name, dict(share=share, files={
            key: str(path) for key, path in int8_files(pair, images, (), folder).items()}))


def times(results: Results, threads: int, seconds: float) -> None:
    """Time the networks in float and in both formats."""
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for name, written in results.found['files'].items():
        key = f'{name}, {threads} threads' if threads > 1 else name
        if results.has('times', key):
            continue
        found: Int8Times = int8_times(written['files'], x, OnnxRuntime(threads), 40, seconds)
        print(found.timing)
        results.add('times', key, dict(
            share=written['share'], fastest=found.fastest(), times=found.timing.as_json(),
            warnings=list(found.timing.warnings), over_dense={name: found.timing[name].speedup_over(
                found.timing['dense']) for name in found.timing.latency}))


def blocks(results: Results, threads: int) -> None:
    """Time a small network of many widths in float and in INT8, and say which block each wants."""
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    runtime = OnnxRuntime(threads)
    images: List[Tensor] = list(torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).split(1))
    with tempfile.TemporaryDirectory() as folder:
        written: Dict[str, Path] = {}
        for width in WIDTHS:
            path = Path(folder) / f'{width}.onnx'
            export_onnx(small_network(width), x, path)
            written.update({f'{width} float': path, f'{width} int8': Quantizer(path, images).write(
                path.with_name(f'{width}_int8.onnx'))})
        found = measure({name: Candidate(runtime, path) for name, path in written.items()}, x, RUNS)
    for kind in ('float', 'int8'):
        widths = {width: min(found[f'{width} {kind}'].rounds) for width in WIDTHS}
        results.add('blocks', f'{kind}, {threads} threads', dict(
            block=block_of(widths), times={str(width): value for width, value in widths.items()},
            warnings=list(found.warnings)))


def document(found: Mapping[str, Any]) -> str:
    """Return the page."""
    about = next(iter(found['accuracy'].values()))
    lines = ['# INT8 after pruning, measured', '', ' '.join(__doc__.split('\n\n')[2].split()), '',
             f'- commands: `{COMMAND} accuracy`, `files`, `times`, `blocks`, `page`', f'- date: {about["date"]}',
             f'- machine: {about["machine"]}', '',
             'What `mmprune deploy --int8` does, and how: [deploy.md](deploy.md#int8).', '', '## Accuracy', '',
             'MobileNetV2, top-1 on the 500 odd images in per cent. The ranges hold the share of the values that the',
             f'outputs suffer from least, on {CALIBRATION} even images; weights have a scale for each channel.', '',
             '| network | float | INT8, QDQ | INT8, QOperator | ranges hold | layers in float for half a point |',
             '| --- | ---: | ---: | ---: | ---: | ---: |']
    for name, row in found['accuracy'].items():
        lines.append(f'| {name} | {row["float"]:.1f} | {row["QDQ"]:.1f} | {row["QOperator"]:.1f} | '
                     f'{row["percentile"]:g} % | {row["left"]} of {row["layers"]} ({row["drop"]:.1f} points less) |')
    return '\n'.join([*lines, '', *time_table(found.get('times', {})), *block_table(found.get('blocks', {})), ''])


def time_table(found: Mapping[str, Any]) -> List[str]:
    """Return the lines of the times."""
    lines = ['## Time', '', 'Milliseconds of an image of 224 x 224: median (quartiles); and how many times as fast as',
             'the dense network in float, the median over turns.', '',
             '| network | multiply-adds | float | INT8, QDQ | INT8, QOperator | best over dense float |',
             '| --- | ---: | ---: | ---: | ---: | ---: |']
    for name, row in found.items():
        for kind, share in (('dense', 1.0), ('pruned', row['share'])):
            cells = [f'{one["median"]:.2f} ({one["first_quartile"]:.2f} to {one["third_quartile"]:.2f})'
                     for one in (row['times'][key] for key in (kind, f'{kind} QDQ', f'{kind} QOperator'))]
            best = max(row['over_dense'][f'{kind} {form}'] for form in FORMATS)
            lines.append(f'| {name}, {kind} | {share:.2f} | {" | ".join(cells)} | {best:.2f} |')
    warned = sorted({text for row in found.values() for text in row['warnings']})
    return [*lines, '', *(f'Warning of the timing: {text}.\n' for text in warned)]


def block_table(found: Mapping[str, Any]) -> List[str]:
    """Return the lines of the blocks."""
    lines = ['## Blocks of channels', '', 'The least number of channels that widths should be multiples of, and the',
             f'milliseconds of the small network of `mmprune.latency.block`, {WIDTHS[0]} to {WIDTHS[-1]} wide.', '',
             '| kernels | block | ' + ' | '.join(f'{width}' for width in WIDTHS) + ' |',
             '| --- | ---: |' + ' ---: |' * len(WIDTHS)]
    for name, row in found.items():
        cells = ' | '.join(f'{value:.3f}' for value in row['times'].values())
        lines.append(f'| {name} | {row["block"]} | {cells} |')
    return lines


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=('accuracy', 'files', 'times', 'blocks', 'page'))
    parser.add_argument('--threads', type=int, default=1, help='of onnxruntime, for times and blocks (1)')
    parser.add_argument('--seconds', type=float, default=60, help='for the times of a network (60)')
    parser.add_argument('--work', type=Path, default=Path(tempfile.gettempdir()) / 'mmprune_int8',
                        help='folder of what is kept')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    results = Results(args.work)
    if args.part == 'page':
        write_text(document(results.found), ROOT / 'docs' / 'int8.md')
    elif args.part == 'times':
        times(results, args.threads, args.seconds)
    elif args.part == 'blocks':
        blocks(results, args.threads)
    else:
        dict(accuracy=accuracy, files=files)[args.part](results)


if __name__ == '__main__':
    run(main)
