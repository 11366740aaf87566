"""Rules for Fourier transforms and complex numbers: each channel is transformed for itself."""
from torch import Tensor

from ..label import compact, constant_along, take_first
from ..tracer import Tracer
from .movement import movement
from .table import Call, register_op


@register_op('_fft_r2c', '_fft_c2c', '_fft_c2r', labelled=True)
def fourier(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """A transform over positions keeps channels; over channels it freezes them."""
    axes = [axis % labels.dim() for axis in call.arg(1, 'dim')]
    if not constant_along(labels, axes):
        tracer.freeze(labels, f'{call.name.strip("_")} transforms along its channels')
        return
    tracer.set_labels(call.out, take_first(compact(labels), axes).expand(call.out.shape))


@register_op('view_as_complex', labelled=True)
def view_as_complex(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Pairs of the last axis become complex numbers."""
    tracer.keep_size(labels, [labels.dim() - 1], f'{call.name} makes pairs of its channels')
    tracer.set_labels(call.out, labels.select(-1, 0))


@register_op('view_as_real', labelled=True)
def view_as_real(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Complex numbers become pairs along a new last axis."""
    tracer.set_labels(call.out, labels.unsqueeze(-1).expand(call.out.shape))


@register_op('fft_fftshift', 'fft_ifftshift', labelled=True)
def shift(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Positions rotated."""
    axes = call.arg(1, 'dim')
    axes = range(labels.dim()) if axes is None else [axes] if isinstance(axes, int) else axes
    tracer.keep_size(labels, [axis % labels.dim() for axis in axes], f'{call.name} rotates its channels')
    movement(tracer, call)
