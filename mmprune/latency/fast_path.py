"""Which nodes of an exported file run in onnxruntime's fast layout, which fell out of it, and what each takes."""
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch

from ..arguments import UserError, optional_package
from ..deploy.onnx_runtime import OnnxModel, onnxruntime_package
from ..deploy.runtimes.onnx_runtime import OnnxRuntime
from ..deploy.runtimes.runtime import NodeTime
from .node_law import end_of
from .profiled import CONVOLUTIONS

FAST_DOMAIN = 'com.microsoft.nchwc'
FAST, REORDER, PLAIN = 'fast', 'reorder', 'plain'
POOLS = ('MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool')
#: Operators with a kernel of the fast layout that wants whole vectors of channels.
VECTOR_OPS = ('Concat', *POOLS, 'Add', 'Sum')
#: What reads feature maps.
READERS = (*CONVOLUTIONS, 'ConvTranspose', *POOLS)
#: What chooses boxes: what is in front of them is no feature map.
CHOOSERS = ('NonMaxSuppression', 'TopK')
#: Channels of a vector of the fast layout with AVX-512, and what the channels of a convolution must be a multiple of.
VECTOR, OF_CONVOLUTION = 16, 4
RUNS = 30
#: Characters of a name in the table.
WIDEST = 60


class FastPathNode(NamedTuple):
    """A node of an optimised network.

    Attributes:
        name, op (str): As in the profile.
        milliseconds (float): Median.
        layout (str): ``fast``, ``plain``, or ``reorder`` for what changes from one to the other.
        reason (str): Why a node that has a fast kernel does not run in it.
    """

    name: str
    op: str
    milliseconds: float
    layout: str
    reason: str = ''


def fast_path(path: Union[str, 'os.PathLike[str]'], threads: int = 1, runs: int = RUNS,
              shape: Sequence[int] = ()) -> List[FastPathNode]:
    """Return the nodes of a file in the order of execution.

    Args:
        path (str): An ONNX file whose input has a fixed shape but for the number of images, which is one.
        threads (int): Threads of onnxruntime.
        runs (int): Timed runs.
        shape (tuple[int]): Of the input, ``(1, C, H, W)``, where the file leaves sizes free.

    Raises:
        OnnxError: onnxruntime cannot run the file.
        UserError: Its input has a free shape, and none of as many sizes is given.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    runtime = OnnxRuntime(threads)
    graph = _optimised(path)
    fast, maps = _fast_nodes(graph), _nodes_of_maps(graph)
    nodes = runtime.profiled(path, torch.rand(_input_shape(path, shape)), runs)
    return [_described(node, node.name in fast, node.name in maps) for node in nodes]


def _input_shape(path: Union[str, 'os.PathLike[str]'], shape: Sequence[int]) -> Tuple[int, ...]:
    model = OnnxModel(path)
    batch, *rest = model.session.get_inputs()[0].shape
    model.close()
    if len(shape) == len(rest) + 1:
        rest = [size if isinstance(size, int) else given for size, given in zip(rest, shape[1:])]
    if not all(isinstance(size, int) for size in rest):
        raise UserError(f'the input of {os.fspath(path)!r} has the free sizes {rest}; export it with a fixed one')
    return (batch if isinstance(batch, int) else 1, *rest)


def _optimised(path: Union[str, 'os.PathLike[str]']) -> Any:
    """Return the graph that onnxruntime makes of a file."""
    onnx, onnxruntime = optional_package('onnx'), onnxruntime_package()
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.optimized_model_filepath = str(Path(folder) / 'optimized.onnx')
        onnxruntime.InferenceSession(os.fspath(path), options, providers=['CPUExecutionProvider'])
        return onnx.load(options.optimized_model_filepath, load_external_data=False).graph


def _fast_nodes(graph: Any) -> Set[str]:
    """Return the nodes that compute in the fast layout.

    They are of a domain of their own, but for operators that do not mind the layout, such as a concat of whole vectors:
    those read what a node of the fast layout writes.
    """
    found: Set[str] = set()
    written: Set[str] = set()  # tensors in the fast layout
    for node in graph.node:
        is_fast = node.domain == FAST_DOMAIN or bool(written & {*node.input})
        if is_fast and not node.op_type.startswith('ReorderOutput'):
            found.add(node.name)
            written.update(node.output)
    return found


def _nodes_of_maps(graph: Any) -> Set[str]:
    """Return the nodes that compute feature maps: convolutions and pools, and what these read in the end.

    What comes after the last of them is none, such as the decoding of boxes; nor are boxes by which regions are cut out
    of maps.
    """
    writer = {output: node for node in graph.node for output in node.output}
    waiting = [node for node in graph.node if node.op_type in READERS]
    found = {node.name for node in waiting}
    while waiting:
        node = waiting.pop()
        for tensor in node.input[:1] if node.op_type == 'RoiAlign' else node.input:
            before = writer.get(tensor)
            if before is not None and before.name not in found and before.op_type not in CHOOSERS:
                found.add(before.name)
                waiting.append(before)
    return found


def _described(node: NodeTime, is_fast: bool, is_of_maps: bool) -> FastPathNode:
    if node.op.startswith('Reorder'):
        return FastPathNode(node.name, node.op, node.milliseconds, REORDER)
    if is_fast:
        return FastPathNode(node.name, node.op, node.milliseconds, FAST)
    return FastPathNode(node.name, node.op, node.milliseconds, PLAIN, reason_of(node) if is_of_maps else '')


def reason_of(node: NodeTime) -> str:
    """Return why a node that could run in the fast layout does not; empty if its operator never does."""
    if node.op in CONVOLUTIONS and len(node.inputs) > 1 and len(node.inputs[0]) == 4:
        reads, (writes, per_group) = node.inputs[0][1], node.inputs[1][:2]
        groups = reads // max(per_group, 1)
        if groups > 1 and per_group > 1:
            sizes = {per_group, writes // groups}
            return '' if all(size % VECTOR == 0 for size in sizes) else (
                f'its {groups} groups have {" and ".join(map(str, sorted(sizes)))} channels, no multiples of {VECTOR}')
        wrong = [f'{count} {what}' for count, what in ((reads, 'channels in'), (writes, 'channels out'))
                 if count % OF_CONVOLUTION and count > OF_CONVOLUTION]
        return f'{" and ".join(wrong)}: no multiple of {OF_CONVOLUTION}' if wrong else 'what it reads is not in it'
    if node.op in VECTOR_OPS:
        counts = sorted({shape[1] for shape in (*node.inputs, *node.outputs) if len(shape) == 4} or {0})
        wrong = [str(count) for count in counts if count % VECTOR]
        return f'{", ".join(wrong)} channels: no multiple of {VECTOR}' if wrong else ''
    return ''


def summary(nodes: Sequence[FastPathNode]) -> Dict[str, Tuple[int, float]]:
    """Return layout -> how many nodes have it and the milliseconds that they take."""
    return {layout: (sum(node.layout == layout for node in nodes),
                     sum(node.milliseconds for node in nodes if node.layout == layout))
            for layout in (FAST, PLAIN, REORDER)}


def format_fast_path(nodes: Sequence[FastPathNode], dense: Optional[Sequence[FastPathNode]] = None,
                     most: int = 30) -> str:
    """Return a table of the nodes that take longest, and what each layout takes; beside those of the dense file.

    Args:
        nodes (list[FastPathNode]): Of a file.
        dense (list[FastPathNode], optional): Of the dense file.
        most (int): Rows.
    """
    before = {node.name: node.milliseconds for node in dense or ()}
    total = sum(node.milliseconds for node in nodes)
    longest = sorted(nodes, key=lambda node: -node.milliseconds)[:most]
    width = max(len(end_of(node.name, WIDEST)) for node in longest)
    head = f'{"node":<{width}}  {"operator":<18}{"ms":>9}{"share":>8}' + (f'{"dense ms":>10}' if dense else '')
    lines = [f'{head}  layout']
    for node in longest:
        other = before.get(node.name)
        column = (f'{other:>10.3f}' if other is not None else f'{"-":>10}') if dense else ''
        reason = f' ({node.reason})' if node.reason else ''
        lines.append(f'{end_of(node.name, WIDEST):<{width}}  {node.op:<18}{node.milliseconds:>9.3f}'
                     f'{node.milliseconds / total:>8.1%}{column}  {node.layout}{reason}')
    if len(nodes) > len(longest):
        lines.append(f'... and {len(nodes) - len(longest)} nodes that take less')
    lines += ['', _layouts('this file', nodes), *([_layouts('dense', dense)] if dense else [])]
    fell = [node for node in nodes if node.layout == PLAIN and node.reason]
    if fell:
        spent = sum(node.milliseconds for node in fell)
        lines.append(f'{len(fell)} nodes, {spent:.2f} ms, fell out of the fast layout: whole blocks (align, or a '
                     f'divisor of {VECTOR}) keep them in it')
    return '\n'.join(lines)


def _layouts(name: str, nodes: Sequence[FastPathNode]) -> str:
    parts = [f'{layout} {count} nodes, {spent:.2f} ms' for layout, (count, spent) in summary(nodes).items()]
    return f'{name}: {"; ".join(parts)}'
