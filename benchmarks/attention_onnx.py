"""Transformers of half of their multiply-adds in onnxruntime: what goes, how much faster, and what exactness costs.

bash tools/setup_env.sh benchmarks                                 # what it runs in
python benchmarks/attention_onnx.py --threads 1 2                  # prints rows as they come
python benchmarks/attention_onnx.py --threads 1 2 --markdown docs/attention_onnx.md

Random weights, which decide nothing about time; channels go by their L2 norms in whole blocks. `exact` is the exported
file, in which weights have taken over the means of the norms, `zeros` one with norms over zeros for what is gone, and
`kept` has plain layer norms over what is left. Networks are timed in turns. The attentions that onnxruntime's own
optimizer for transformers fuses are counted in the dense and in the cut file. A second table says where the time of one
thread goes, by operator.
"""
import argparse
import datetime
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import onnx
import timm
import torch
from torch import nn

from mmprune import Pruner
from mmprune.command_line import run
from mmprune.deploy.machine import cpu_name
from mmprune.deploy.onnx_export import export_onnx
from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime
from mmprune.deploy.timing import Candidate, Timing, measure
from mmprune.files import write_text
from mmprune.units.attention.norm import StreamNorm
from mmprune.units.complexity import amount

NETWORKS = {'ViT-S/16': 'vit_small_patch16_224', 'ViT-B/16': 'vit_base_patch16_224',
            'Swin-T': 'swin_tiny_patch4_window7_224'}
SHAPE, SHARE = (1, 3, 224, 224), 0.5
#: Multiples of which widths are: of a vector, and of two, so that two threads get as much each.
BLOCK, WIDER = 16, 32
#: What else is cut to half of the multiply-adds: name -> choice.
ALONE: Dict[str, Dict[str, Any]] = {'MLPs alone': dict(exclude='*.attn', stream='whole'),
                                    'heads and MLPs': dict(stream='whole')}

#: Kind -> operators of onnxruntime.
OPERATORS = {'layers (Gemm)': ('Gemm', 'Conv', 'FusedGemm'),
             'products of attention (MatMul)': ('MatMul', 'FusedMatMul'),
             'norms': ('LayerNormalization', 'SimplifiedLayerNormalization'),
             'zeros of norms (Pad), shifts of windows (Slice)': ('Pad', 'Slice'), 'softmax': ('Softmax',),
             'activations': ('Gelu', 'BiasGelu'), 'sums and products of elements': ('Add', 'Mul', 'Sub', 'Div'),
             'moves': ('Reshape', 'Transpose', 'Concat', 'Split', 'Gather', 'ReorderInput', 'ReorderOutput', 'Expand')}


def cut(name: str, choice: Dict[str, Any], align: int = BLOCK) -> Tuple[nn.Module, float]:
    """Return a network with random weights, cut, and the share of its multiply-adds that is left."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    target = dict(flops=SHARE, align=align, max_pruned_ratio=0.9 if choice else 0.6)
    pruner = Pruner(model, torch.zeros(SHAPE), 'L2', target=target, choice=choice)
    dense = amount(pruner.mutator.cost, 'flops')
    pruner.cut()
    return model, amount(pruner.mutator.cost, 'flops') / dense


def fused(path: Path) -> str:
    """Return how many attentions onnxruntime's optimizer fuses in a file."""
    from onnxruntime.transformers.optimizer import optimize_model
    optimised = optimize_model(str(path), model_type='vit', opt_level=0)
    return str(sum(node.op_type in ('Attention', 'MultiHeadAttention') for node in optimised.model.graph.node))


def exported(model: nn.Module, path: Path) -> Path:
    """Write the file that users get; return its path."""
    export_onnx(model, torch.zeros(SHAPE), path)
    return path


class Files:
    """The files of a network: dense, cut with exact norms of both kinds and with plain ones, and cut in parts.

    Args:
        name (str): Of timm.
        folder (Path): Where they lie.
        runtime (OnnxRuntime): That exports them.
    """

    def __init__(self, name: str, folder: Path, runtime: OnnxRuntime) -> None:
        x = torch.zeros(SHAPE)
        self.sources = {'dense': runtime.prepare(timm.create_model(name).eval(), x, folder / 'dense.onnx')}
        self.shares = {'dense': 1.0}
        model, share = cut(name, {})
        self.shares.update(exact=share, zeros=share, kept=share)
        self.sources['exact'] = exported(model, folder / 'exact.onnx')
        self.sources['zeros'] = runtime.prepare(model, x, folder / 'zeros.onnx')
        for norm in [module for module in model.modules() if isinstance(module, StreamNorm)]:
            norm.counts_removed = False
        self.sources['kept'] = runtime.prepare(model, x, folder / 'kept.onnx')
        wider = f'exact, multiples of {WIDER}'
        model, self.shares[wider] = cut(name, {}, WIDER)
        self.sources[wider] = exported(model, folder / 'wider.onnx')
        for part, choice in ALONE.items():
            model, self.shares[part] = cut(name, choice)
            self.sources[part] = runtime.prepare(model, x, folder / f'{part.replace(" ", "_")}.onnx')
        self.nodes = {kind: len(onnx.load(str(path)).graph.node) for kind, path in self.sources.items()}
        self.fused = {kind: fused(self.sources[kind]) for kind in ('dense', 'exact')}


def timed(files: Files, threads: int, rounds: int) -> Timing:
    """Time all files in turns."""
    runtime = OnnxRuntime(threads)
    return measure({kind: Candidate(runtime, source) for kind, source in files.sources.items()}, torch.zeros(SHAPE),
                   rounds)


def rows_of(name: str, files: Files, threads: int, rounds: int) -> List[str]:
    """Return the rows of a network."""
    found = timed(files, threads, rounds)
    lines = []
    for kind in files.sources:
        speedup = found[kind].speedup_over(found['dense'])
        against = f'{found["kept"].speedup_over(found[kind]) - 1:+.1%}' if kind in ('exact', 'zeros') else ''
        lines.append(f'| {name} | {kind} | {files.shares[kind]:.3f} | {threads} | {found[kind].median:.1f} | '
                     f'{speedup:.2f} | {against} | {files.nodes[kind]} | {files.fused.get(kind, "")} |')
        print(lines[-1], flush=True)
    for warning in found.warning_lines():
        print(warning, flush=True)
    return lines


def operator_rows(name: str, files: Files) -> List[str]:
    """Return rows of what kinds of operators take in the dense and in the cut network, with one thread."""
    times: Dict[str, Dict[str, float]] = {}
    for file in ('dense', 'exact'):
        for node in OnnxRuntime(1).profiled(files.sources[file], torch.zeros(SHAPE)):
            kind = next((kind for kind, names in OPERATORS.items() if node.op in names), 'all else')
            times.setdefault(kind, dict.fromkeys(('dense', 'exact'), 0.0))[file] += node.milliseconds
    whole = {file: sum(each[file] for each in times.values()) for file in ('dense', 'exact')}
    rows = [f'| {name} | {kind} | {each["dense"]:.2f} | {each["exact"]:.2f} | {each["exact"] / whole["exact"]:.0%} | '
            + (f'{each["dense"] / each["exact"]:.2f} |' if each['dense'] else '|') for kind, each in sorted(
                times.items(), key=lambda item: -item[1]['exact']) if each['exact'] > 0]
    rows.append(f'| {name} | together | {whole["dense"]:.2f} | {whole["exact"]:.2f} | 100% | '
                f'{whole["dense"] / whole["exact"]:.2f} |')
    print('\n'.join(rows), flush=True)
    return rows


def page(lines: Sequence[str], operators: Sequence[str], threads: Sequence[int]) -> str:
    """Return the page."""
    head = ['# Transformers of half of their multiply-adds in onnxruntime', '',
            f'`python benchmarks/attention_onnx.py --threads {" ".join(map(str, threads))}`, '
            f'{datetime.date.today().isoformat()}; {cpu_name()}, 2 cores shared with others, '
            f'torch {torch.__version__}, onnxruntime {OnnxRuntime(1).version()}, timm {timm.__version__}.', '',
            'Random weights, one image of 224 x 224, float32; channels went by L2 norms over all units, in multiples',
            f'of {BLOCK} where no other is named. Multiply-adds are those of layers and of the products of attention.',
            '`exact` is the exported file, equal to the masked network, whose norms count removed channels as zeros:',
            'weights have taken over their means. `zeros` has norms over these zeros, `kept` the same widths and',
            'plain norms. `norms` is what exactness costs. `fused` are the attentions that the optimizer of',
            'onnxruntime for transformers finds. Times are medians; `times as fast` is the median over the rounds.',
            '',
            '| network | cut | multiply-adds left | threads | ms | times as fast | norms | nodes | fused |',
            '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |']
    tail = ['', '## By operator', '',
            'Milliseconds of the nodes, one thread, by the profiler of onnxruntime, which costs some time itself.', '',
            '| network | operators | dense, ms | exact, ms | share of exact | times as fast |',
            '| --- | --- | ---: | ---: | ---: | ---: |']
    return '\n'.join([*head, *lines, *tail, *operators, ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--markdown', metavar='FILE', help='write the page')
    args = parser.parse_args()
    lines: List[str] = []
    operators: List[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            place = Path(folder) / NETWORKS[name]
            place.mkdir()
            files = Files(NETWORKS[name], place, OnnxRuntime(1))
            for threads in args.threads:
                lines += rows_of(name, files, threads, args.rounds)
            operators += operator_rows(name, files)
    if args.markdown:
        write_text(page(lines, operators, args.threads), args.markdown)


if __name__ == '__main__':
    run(main)
