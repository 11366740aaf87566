"""What the head of a YOLO model predicts, without what it makes of that, and without what it was given."""
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

from torch import Tensor, nn

from ...arguments import UserError, short

#: What heads hand on beside their predictions: the feature maps that they read. Only the sizes of these are used.
READ = 'feats'


def network_of(yolo: Any) -> nn.Module:
    """Return the network of a ``YOLO``, which has its head as last module.

    Raises:
        UserError: It is no YOLO, has no torch network (an exported file), or its convs and norms are folded already.
    """
    network = getattr(yolo, 'model', None)
    if not isinstance(network, nn.Module) or not isinstance(getattr(network, 'model', None), nn.Sequential):
        raise UserError(f"yolo is {short(yolo)}; it must be a YOLO of ultralytics with a torch network, such as "
                        "YOLO('best.pt')")
    if network.is_fused():  # type: ignore[operator]
        raise UserError('the norms of this YOLO are folded into its convolutions (fuse), so that it cannot be trained '
                        "after pruning: load the file again, YOLO('best.pt')")
    return network


@contextmanager
def raw_predictions(yolo: Any) -> Iterator[nn.Module]:
    """Let the network of a YOLO return in this block what its head predicts, and nothing else; yield the network.

    A head returns the feature maps that it reads, too: taken for outputs, they could not be pruned. Decoded boxes, as
    in eval mode, are left out as well: a loss or a distance of outputs is one of logits.

    Args:
        yolo (YOLO): With a torch network.

    Raises:
        UserError: See :func:`network_of`.
    """
    network = network_of(yolo)
    handle = network.model[-1].register_forward_hook(_raw)  # type: ignore[index, union-attr]
    try:
        yield network
    finally:
        handle.remove()


def _raw(head: nn.Module, args: Any, outputs: Any) -> Any:
    if isinstance(outputs, tuple) and not head.training and len(outputs) == 2:  # decoded, and raw
        outputs = outputs[1]
    return _without_read(outputs)


def _without_read(value: Any) -> Any:
    if isinstance(value, Tensor) or not isinstance(value, (Mapping, list, tuple)):
        return value
    if isinstance(value, Mapping):
        return {key: _without_read(item) for key, item in value.items() if key != READ}
    return type(value)(_without_read(item) for item in value)
