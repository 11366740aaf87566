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
    head: Any = network.model[-1]  # type: ignore[index, union-attr]
    handle, decoder = head.register_forward_hook(_raw), getattr(head, 'dfl', None)
    if isinstance(decoder, nn.Module) and any(True for _ in decoder.parameters()):
        head.dfl = _FirstFour()
    try:
        yield network
    finally:
        handle.remove()
        if decoder is not None:
            head.dfl = decoder


class _FirstFour(nn.Module):
    """Stands for what makes distances of distributions, by a convolution whose weight is a constant.

    What is decoded is left out, so that it need not be right; but a repair solves all convolutions that it sees.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``Tensor[N, 4, anchors]`` of ``Tensor[N, 4 * bins, anchors]``."""
        return x[:, :4]


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
