"""Measure what the layers of a model take on this machine, and predict the time of pruned ones.

mmprune latency CONFIG --threads 2 --out table.json --picture layers.png
mmprune latency DEPLOY_CONFIG --require-faster
mmprune latency CONFIG PRUNED.pth --out table.json
mmprune latency CONFIG --measured measured.json --out device.json
mmprune latency --nodes pruned.onnx --dense dense.onnx
python tools/pruning/latency_table.py CONFIG --threads 2 --out table.json

CONFIG is a pretrain, prune, finetune or deploy config. Networks of random widths are exported and profiled whole; the
table that comes of it predicts the time of any widths, and a target in time reads it (`runtime=dict(type='OnnxRuntime',
threads=2, table='table.json')`). A pruned model, by the structure of a deploy config or a checkpoint of a prune run, is
predicted and measured beside the dense one. `--measured` makes the table of another device of what
`mmprune latency pack` brought back, or corrects one. `--nodes` tells which nodes of an ONNX file run in onnxruntime's
fast layout.
"""
from typing import Dict, List, Mapping, Optional, Sequence

import numpy as np
import torch

from ..arguments import UserError
from ..command_line import (
    add_config_options,
    add_require_faster,
    add_shape_option,
    bar_on_stderr,
    command_parser,
    threads,
    whole,
)
from ..deploy.beside_dense import require_faster, verdict
from ..latency.fast_path import fast_path, format_fast_path
from ..latency.meter import Meter
from ..latency.node_law import layer_name
from ..latency.pack import corrected, read_measured, table_of
from ..latency.profiled import NETWORKS
from ..latency.pruned_copy import sets_of
from ..latency.table import LatencyTable, read_table, write_table
from ..models.checkpoint import check_exists, read_state_dict
from ..models.from_config import mutator_from_config
from ..models.pruned_state import masks_of
from ..pruning.search import share_of_cost
from ..report.figure import picture_format
from ..report.latency_picture import draw_latency
from ..units.mutator import ChannelMutator

RUNTIME_NAMES = ('OnnxRuntime', 'OpenVINO', 'Torch')
#: Rows of the table of layers.
ROWS = 20
#: Characters of a layer in it.
WIDEST = 56


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', nargs='?', help='pretrain, prune, finetune or deploy config')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint of a prune run, whose structure is timed')
    parser.add_argument('--runtime', choices=RUNTIME_NAMES, default=RUNTIME_NAMES[0],
                        help='what runs the networks (default: %(default)s)')
    parser.add_argument('--threads', type=threads, default=1, help='threads of the runtime (1)')
    parser.add_argument('--networks', type=whole(8, 1000), default=NETWORKS,
                        help='networks that are measured (%(default)s)')
    parser.add_argument('--out', help='json file of the table: read if it is there, else written')
    parser.add_argument('--picture', help='picture of the milliseconds by layer, .png or .svg')
    parser.add_argument('--measured', help='json file that the script of a pack has written on a device')
    parser.add_argument('--nodes', help='ONNX file whose nodes are listed')
    parser.add_argument('--dense', help='with --nodes: the dense file beside it')
    add_shape_option(parser)
    add_require_faster(parser)
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.nodes:
        show_nodes(args.nodes, args.dense, args.threads)
        return
    if args.config is None or args.dense:
        parser.error('give a CONFIG, or --nodes FILE, with --dense FILE beside it')
    for path in (args.checkpoint, args.measured):
        if path is not None:
            check_exists(path)
    if args.picture:
        picture_format(args.picture)
    torch.set_num_threads(args.threads)
    mutator, structure = mutator_from_config(args.config, args.input_shape, args.cfg_options)
    if args.measured:
        from_device(args.measured, args.out, mutator)
        return
    meter = Meter(dict(type=args.runtime, threads=args.threads, networks=args.networks,
                       **({} if args.out is None else dict(table=args.out))), mutator)
    table = meter.table(bar_on_stderr())
    print(format_table(table, mutator))
    counts = structure_of(args.checkpoint, mutator) if args.checkpoint else \
        None if structure is None else sets_of(structure, mutator)
    if args.picture:
        shown = halved(mutator, table) if counts is None else counts
        draw_latency(table.by_node({}), table.by_node(shown), args.picture,
                     f'{table.where}: {table.dense_total_ms:.2f} ms dense, {table.predict(shown):.2f} ms pruned',
                     'half of every unit, predicted' if counts is None else 'pruned, predicted')
    if counts is not None:
        compare(meter, table, counts, args.require_faster)
    elif args.require_faster:
        raise UserError(f'--require-faster: {args.config} names no pruned structure; give the deploy config of a '
                        'pruned model, or a checkpoint of a prune run')


def show_nodes(path: str, dense: Optional[str], count: int) -> None:
    """Print which nodes of a file run in the fast layout, beside those of the dense file."""
    for one in (path, dense):
        if one is not None:
            check_exists(one)
    print(format_fast_path(fast_path(path, count), None if dense is None else fast_path(dense, count)))


def from_device(measured: str, out: Optional[str], mutator: ChannelMutator) -> None:
    """Write the table of a device, or correct the one that is there by a pruned model."""
    if out is None:
        raise UserError('--measured makes a table: give its file by --out')
    found = read_measured(measured)
    if len(found['networks']) == 2:
        table = read_table(out)
        times = corrected(table, found)
        print(f'predicted {times["predicted"]:.2f} ms, measured {times["measured"]:.2f} ms '
              f'({times["measured"] / times["predicted"] - 1:+.1%}); dense {times["dense"]:.2f} ms')
        print(f'{out} is corrected: prune again with it where the model is too slow')
        print(verdict(times['dense'] / times['measured']))
    else:
        table = table_of(found, mutator)
        print(format_table(table, mutator))
    write_table(table, out)


def structure_of(path: str, mutator: ChannelMutator) -> Dict[str, int]:
    """Return unit name -> sets of a checkpoint of a prune run.

    Raises:
        UserError: The checkpoint contains no structure.
    """
    masks = masks_of(mutator, read_state_dict(path, 'checkpoint'), f'the structure of {path!r}')
    if masks is None:
        raise UserError(f'{path!r} holds no pruned structure, as checkpoints of prune runs do; for a finetuned model '
                        'give its deploy config, whose fix_subnet names it')
    return {name: int(mask.sum()) for name, mask in masks.items()}


def halved(mutator: ChannelMutator, table: LatencyTable) -> Dict[str, int]:
    """Return unit name -> about half of its sets, in whole blocks."""
    found = {}
    for unit in mutator.units:
        block = unit.sets_in(table.block)
        found[unit.name] = min(len(unit.kept), max(block, len(unit.kept) // 2 // block * block))
    return found


def compare(meter: Meter, table: LatencyTable, counts: Mapping[str, int], required: bool) -> None:
    """Print the prediction for a structure and what it takes beside the dense model."""
    predicted, timed = table.predict(counts), meter.time(counts)
    measured = table.total_ms(timed.share)
    print(f'pruned: predicted {predicted:.2f} ms, measured {measured:.2f} ms ({measured / predicted - 1:+.1%}); '
          f'{timed.pruned.images_per_second:.1f} images/s')
    speedup = table.dense_total_ms / measured
    print(verdict(speedup))
    if required:
        require_faster(speedup)


def format_table(table: LatencyTable, mutator: ChannelMutator, rows: int = ROWS) -> str:
    """Return which layers are time, which are multiply-adds, and how well the table predicts."""
    dense, half = table.by_node({}), table.by_node(halved(mutator, table))
    total = sum(dense.values())
    longest = sorted(dense, key=lambda name: -dense[name])[:rows]
    width = max(len(layer_name(name, WIDEST)) for name in longest)
    fixed = sum(dense[law.name] for law in table.laws if not law.reads.units | law.writes.units)
    lines = [f'{"layer":<{width}}  {"operator":<18}{"dense ms":>10}{"share":>8}{"at half":>10}']
    operators = {law.name: law.op for law in table.laws}
    lines += [f'{layer_name(name, WIDEST):<{width}}  {operators[name]:<18}{dense[name]:>10.3f}'
              f'{dense[name] / total:>8.1%}{half[name]:>10.3f}' for name in longest]
    if len(dense) > rows:
        rest: List[str] = [name for name in dense if name not in longest]
        name = f'{len(rest)} more'
        lines.append(f'{name:<{width}}  {"":<18}'
                     f'{sum(dense[name] for name in rest):>10.3f}{sum(dense[name] for name in rest) / total:>8.1%}'
                     f'{sum(half[name] for name in rest):>10.3f}')
    about = ', '.join(f'{key} {value}' for key, value in table.runtime.items())
    flops = half_flops(mutator, table)
    return '\n'.join([*lines, '', about, f'input {" x ".join(map(str, table.input_shape))}; blocks of {table.block} '
                      f'channels; {table.networks} networks measured',
                      f'dense {table.dense_total_ms:.2f} ms; half of every unit: '
                      f'{table.predict(halved(mutator, table)) / table.dense_total_ms:.0%} of the time, {flops:.0%} of '
                      f'the multiply-adds; {fixed / total:.0%} of the time no unit changes',
                      f'R2 {table.calibration.r2:.4f}, largest error {table.calibration.largest_error:.1%} on networks '
                      'that it had not seen'])


def half_flops(mutator: ChannelMutator, table: LatencyTable) -> float:
    """Return the share of the multiply-adds that half of every unit leaves."""
    counts = halved(mutator, table)
    masks = {unit.name: np.arange(len(unit.kept)) < counts[unit.name] for unit in mutator.units}
    return share_of_cost(mutator, masks, 'flops')
