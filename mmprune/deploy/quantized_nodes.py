"""Which nodes of a file are its network, up to its head: what is behind them stays in float.

Boxes in pixels and scores up to 1 in one tensor have one scale in INT8, which leaves nothing of the scores. So what
decodes and selects is not quantised. It is found by its place in the graph: all that no layer with weights reads.
"""
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Set, Tuple

#: Operators that have weights and integer kernels.
LAYERS = ('Conv', 'Gemm', 'MatMul')
#: Operators without weights that have integer kernels, or pass integers on.
PASSING = ('Add', 'Mul', 'Concat', 'Relu', 'Clip', 'LeakyRelu', 'Sigmoid', 'MaxPool', 'AveragePool',
           'GlobalAveragePool', 'Resize', 'Reshape', 'Flatten', 'Transpose', 'Squeeze', 'Unsqueeze', 'Slice', 'Split',
           'Pad', 'Gather')
#: Operators that select or place something: the network ends before them, and may begin again behind them.
SELECTING = ('TopK', 'NonMaxSuppression', 'RoiAlign', 'NonZero', 'ArgMax', 'GatherND', 'GatherElements', 'ScatterND',
             'If', 'Loop', 'Scan')
#: What ONNX calls float32.
FLOAT = 1
#: Operators that read a size only.
SIZES = ('Shape', 'Size')


@dataclass(frozen=True)
class Network:
    """The part of a graph up to its head, and what of it is quantised."""

    layers: Tuple[str, ...]  # names of the nodes that have weights, in the order of the graph
    nodes: Tuple[str, ...]  # all of its nodes
    quantized: Tuple[str, ...]  # those that get integers: the layers, and what passes their outputs on
    outputs: Tuple[str, ...]  # tensors that are read behind it, or returned
    compared: Tuple[int, ...]  # places of the outputs before which nothing is selected: of regions the order may change


def network_of(model: Any) -> Network:
    """Return the network of a model whose nodes have names.

    A layer is a node with a constant weight that has more than one output: the projection of a distribution to its mean
    (Generalized Focal Loss) is part of decoding. The network is the layers, and what they read. Of its other nodes,
    those are quantised whose inputs all are: the products and norms of an attention stay in float.

    Args:
        model (onnx.ModelProto): See :func:`named`.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in LAYERS and _outputs(node, constants) > 1]
    found: Set[str] = set()
    waiting = list(layers)
    while waiting:
        node = waiting.pop()
        if node.name in found:
            continue
        found.add(node.name)
        for name in node.input:
            maker = makers.get(name)
            if maker is not None and not _selects(maker):
                waiting.append(maker)
    names = {tensor: node.name for tensor, node in makers.items()}
    outputs = _outputs_of(graph, found, names)
    selected: Set[str] = set()  # tensors behind a selection
    for node in graph.node:
        if _selects(node) or selected & {*node.input}:
            selected.update(node.output)
    compared = tuple(place for place, name in enumerate(outputs) if name not in selected) or tuple(range(len(outputs)))
    return Network(tuple(node.name for node in layers), tuple(node.name for node in graph.node if node.name in found),
                   _quantized(graph, found, {node.name for node in layers}, names), outputs, compared)


def _quantized(graph: Any, nodes: Set[str], layers: Set[str], makers: Dict[str, str]) -> Tuple[str, ...]:
    """Return which nodes get integers, in the order of the graph, which is that of execution.

    Args:
        graph (onnx.GraphProto): With the types of its tensors.
        nodes (set[str]): Those of the network.
        layers (set[str]): Those with weights.
        makers (dict[str, str]): Tensor -> node.
    """
    others = {info.name for info in graph.value_info if info.type.tensor_type.elem_type != FLOAT}
    images = {info.name for info in graph.input}
    found: Dict[str, None] = {}
    for node in graph.node:
        read = [name for name in node.input if (name in makers or name in images) and name not in others]
        passes = node.op_type in PASSING and node.name in nodes and read and all(
            name in images or makers[name] in found for name in read)
        if node.name in layers or passes:
            found[node.name] = None
    return tuple(found)


def _outputs(node: Any, constants: Dict[str, Tuple[int, ...]]) -> int:
    """Return how many outputs the constant weight of a layer has, 0 if its weight is computed."""
    shape = constants.get(node.input[1], ())
    if len(shape) < 2:
        return 0
    attributes = {attribute.name: attribute for attribute in node.attribute}
    transposed = 'transB' in attributes and attributes['transB'].i
    return int(shape[0] if node.op_type == 'Conv' or transposed else shape[-1])


def _selects(node: Any) -> bool:
    return node.op_type in SELECTING or node.domain not in ('', 'ai.onnx', 'com.microsoft')


def _outputs_of(graph: Any, nodes: Set[str], makers: Dict[str, str]) -> Tuple[str, ...]:
    """Return the tensors of some nodes that others read, for more than their size, or that the graph returns."""
    read = {name: None for node in graph.node if node.name not in nodes and node.op_type not in SIZES
            for name in node.input}
    read.update({output.name: None for output in graph.output})
    return tuple(name for name in read if makers.get(name) in nodes)


def named(model: Any) -> Any:
    """Give every node a name of its own, in place; return the model.

    Args:
        model (onnx.ModelProto): Any.
    """
    known: Set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in known:
            node.name = f'{node.op_type}_{number}'
        known.add(node.name)
    return model


def cut_to(model: Any, outputs: Sequence[str]) -> Any:
    """Return a copy of a model that returns other tensors and has only the nodes that these need.

    Args:
        model (onnx.ModelProto): Stays as it is.
        outputs (list[str]): Tensors of float32.
    """
    import onnx  # an optional dependency

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    needed: Set[str] = set()
    waiting = list(outputs)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.output[0] not in needed:
            needed.add(node.output[0])
            waiting += [name for name in (*node.input, *_captured(node)) if name]
    known = {info.name: info for info in (*graph.value_info, *graph.output)}
    other = onnx.ModelProto()
    other.CopyFrom(model)
    del other.graph.node[:], other.graph.output[:]
    other.graph.node.extend(node for node in graph.node if node.output and node.output[0] in needed)
    read = {name for node in other.graph.node for name in (*node.input, *_captured(node))}
    for kind in ('initializer', 'value_info'):
        field = getattr(other.graph, kind)
        kept = [item for item in field if item.name in (read if kind == 'initializer' else makers)
                and item.name not in outputs]
        del field[:]
        field.extend(kept)
    other.graph.output.extend(known[name] if name in known else onnx.helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, None) for name in outputs)
    return other


def _captured(node: Any) -> List[str]:
    """Return what the graphs inside a node read."""
    return [name for attribute in node.attribute for inner in attribute.g.node
            for name in (*inner.input, *_captured(inner))]
