"""Compares the masked dense model with the cut model, which must compute the same.

Masked means that the consumers' input columns of the dropped channels are zero. Zeroing anything earlier would not be
exact, since activations like sigmoid map zero to something else.
"""
import copy
import random
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..arguments import UserError
from ..graph.nested import output_tensors
from ..graph.rules.table import LAYER_RULES
from .baking import bake
from .copies import sharing_copy
from .surgery import Surgery
from .unit import ChannelUnit
from .weight_norm import kept_scale

Masks = Mapping[str, np.ndarray]
Forward = Callable[[nn.Module], Any]


def random_masks(units: Sequence[ChannelUnit], ratio: float, seed: int, spread: float = 0.0) -> Dict[str, np.ndarray]:
    """Return masks that drop random sets of every unit and keep at least one.

    Args:
        units (list[ChannelUnit]): The units.
        ratio (float): Share of a unit's sets that is dropped.
        seed (int): Seed of the choice.
        spread (float): Each unit's share lies in ``ratio +- spread``, so that equally wide units get different shares.
    """
    generator = np.random.RandomState(seed)
    masks: Dict[str, np.ndarray] = {}
    for unit in units:
        dropped = round(len(unit.kept) * (ratio + spread * generator.uniform(-1, 1)))
        masks[unit.name] = random_mask(generator, len(unit.kept), dropped)
    return masks


def random_mask(generator: np.random.RandomState, count: int, dropped: int) -> np.ndarray:
    """Return a mask ``ndarray[count], bool`` that drops random sets and keeps at least one."""
    mask: np.ndarray = np.ones(count, dtype=bool)
    mask[generator.permutation(count)[:min(count - 1, max(0, dropped))]] = False
    return mask


def randomise(model: nn.Module, seed: int) -> None:
    """Give random values to norms, statistics included, and to constant parameters.

    So no two channels are alike, and a branch behind a layer scale of 1e-6 or a gain of 0 contributes.
    """
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: Tensor, deviation: float, centre: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation + centre)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, 'running_mean', None), Tensor):
                fill(module.running_mean, 0.1, 0.0)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
                for name, centre in (('weight', 1.0), ('bias', 0.0)):
                    if isinstance(getattr(module, name, None), Tensor):
                        fill(getattr(module, name), 0.2, centre)
        for name, parameter in model.named_parameters():
            if parameter.numel() == 1 and float(parameter) == 0:
                parameter.fill_(0.5)
            elif parameter.numel() > 1 and bool((parameter == parameter.reshape(-1)[0]).all()):
                matrix = sum(size > 1 for size in parameter.shape) > 1
                fill(parameter, 0.05 if matrix else 0.2, 0.0 if matrix or name.endswith('bias') else 1.0)


def mask_dense(model: nn.Module, units: Sequence[ChannelUnit], masks: Masks) -> nn.Module:
    """Return a :func:`sharing_copy` of a dense model with the dropped channels masked at their consumers."""
    dense = sharing_copy(model)
    columns = _dropped_columns(dense, units, masks)
    with kept_scale(dense, {name for name, _ in columns}):
        for (_, dim), (weight, index) in columns.items():
            weight.data = weight.data.index_fill(dim, index, 0.0)
    return dense


@contextmanager
def masked_dense(model: nn.Module, units: Sequence[ChannelUnit], masks: Masks) -> Iterator[nn.Module]:
    """Give what :func:`mask_dense` returns for the time of the block, without a second copy of the weights.

    Until the block ends, the columns are zero in the weights of ``model`` itself, which the copy shares.
    """
    dense = sharing_copy(model)
    columns = _dropped_columns(dense, units, masks)
    before: List[Tuple[Tensor, int, Tensor, Tensor]] = []
    try:
        with kept_scale(dense, {name for name, _ in columns}):
            for (_, dim), (weight, index) in columns.items():
                before.append((weight.data, dim, index, weight.data.index_select(dim, index)))
                weight.data.index_fill_(dim, index, 0.0)
        yield dense
    finally:
        for shared, dim, index, values in reversed(before):
            shared.index_copy_(dim, index, values)


def _dropped_columns(model: nn.Module, units: Sequence[ChannelUnit],
                     masks: Masks) -> Dict[Tuple[str, int], Tuple[Tensor, Tensor]]:
    """Return (tensor name, axis) -> the weight and the indices along the axis of all that read dropped channels.

    Of a stream over which norms compute, whatever writes it too: the norms count removed channels as zeros.
    Layers that standardise their filters over dropped channels are baked: ``model`` is a copy.
    """
    dropped: Dict[Tuple[str, int], List[np.ndarray]] = {}
    standardised: Set[str] = set()
    for unit in units:
        written = any(member.axis.across for member in unit.channels.members)
        for member in unit.channels.members:
            if (member.axis.role == 'in' or written) and unit.name in masks:
                columns = member.index[~masks[unit.name]].reshape(-1)
                dropped.setdefault((member.axis.tensor, member.axis.dim), []).append(columns)
                standardised |= {member.axis.layer} if member.axis.standardised and len(columns) else set()
    for layer in standardised:
        bake(model.get_submodule(layer))
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    return {(name, dim): (tensors[name], torch.from_numpy(np.concatenate(parts)).to(tensors[name].device))
            for (name, dim), parts in dropped.items()}


def cut_copy(model: nn.Module, units: Sequence[ChannelUnit], masks: Masks) -> nn.Module:
    """Return a cut :func:`sharing_copy` of a dense model; the units are not changed."""
    cut = sharing_copy(model)
    Surgery(cut, [copy.copy(unit) for unit in units]).cut(masks)
    return cut


def relative_difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, over the largest value; inf if shapes differ."""
    if [a.shape for a in left] != [b.shape for b in right]:
        return float('inf')
    return max((_difference(a, b) for a, b in zip(left, right) if a.numel() and not torch.equal(a, b)), default=0.0)


def _difference(a: Tensor, b: Tensor) -> float:
    if not a.is_complex():
        a, b = a.double(), b.double()
    gap, scale = (a - b).abs().max(), a.abs().max()
    if not bool(gap.isfinite() & scale.isfinite()):  # infinities and NaN at the same places are alike
        alike = (a == b) | (a.isnan() & b.isnan())
        finite = a.abs()[a.isfinite()]
        gap = (a - b).abs().masked_fill(alike, 0.0).max()
        scale = finite.max() if finite.numel() else gap.new_zeros(())
    difference = float(gap / scale.clamp_min(1e-30))
    return difference if difference == difference else float('inf')


def outputs(model: nn.Module, forward: Forward, training: bool) -> List[Tensor]:
    """Run a model on the demo input, without randomness, and return its output tensors.

    Raises:
        UserError: The model returns no tensor.
    """
    model.train(training)
    for module in model.modules():  # dropout, drop path, drop block
        if 'drop' in type(module).__name__.lower() and not any(True for _ in module.children()):
            module.eval()
    with torch.no_grad(), _same_randomness(), _default_dtype_of(model), Deterministic():
        tensors = output_tensors(forward(model))
    if not tensors:
        raise UserError(f'{type(model).__name__} returns no tensor on the demo input: nothing can be compared')
    return tensors


class Deterministic(TorchFunctionMode):
    """Remove accidental differences from a forward: randomness, float32 constants in float64 layers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, '__name__', '')
        if 'dropout' in name and args and isinstance(args[0], Tensor):
            return args[0]
        if name == 'scaled_dot_product_attention' and 'dropout_p' in kwargs:
            kwargs = {**kwargs, 'dropout_p': 0.0}
        if name in ('rand_like', 'randn_like'):  # the number of draws depends on the channels
            return torch.zeros_like(*args, **kwargs)
        if name == 'rrelu':
            return nn.functional.leaky_relu(args[0], (1 / 8 + 1 / 3) / 2)
        if name in LAYER_RULES and len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor) \
                and args[0].is_floating_point() and args[1].dtype == torch.float64 != args[0].dtype:
            args = (args[0].double(), *args[1:])
        if name == 'conv2d' and _is_slow_depthwise(*args, **kwargs):
            return _depthwise(*args, **kwargs)
        return func(*args, **kwargs)


def _is_slow_depthwise(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, stride: Any = 1, padding: Any = 0,
                       dilation: Any = 1, groups: int = 1) -> bool:
    """Tell whether torch would run this convolution group by group, as it does in float64."""
    return groups > 1 and groups == x.size(1) and x.dim() == 4 and x.dtype == torch.float64 and padding not in (
        'same', 'valid')


def _depthwise(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, stride: Any = 1, padding: Any = 0,
               dilation: Any = 1, groups: int = 1) -> Tensor:
    """Compute ``F.conv2d`` as a sum over the positions of the kernel, all channels at once."""
    (down, right), (pad_y, pad_x), (apart_y, apart_x) = (
        (value, value) if isinstance(value, int) else tuple(value) for value in (stride, padding, dilation))
    if len(weight) > groups:
        x = x.repeat_interleave(len(weight) // groups, dim=1)
    height, width = weight.shape[2:]
    rows = (x.size(2) + 2 * pad_y - apart_y * (height - 1) - 1) // down + 1
    columns = (x.size(3) + 2 * pad_x - apart_x * (width - 1) - 1) // right + 1
    out = x.new_zeros(len(x), len(weight), rows, columns) if bias is None else bias.view(1, -1, 1, 1).repeat(
        len(x), 1, rows, columns)
    for i in range(height):
        for j in range(width):
            into_y, from_y = _inside(i * apart_y - pad_y, down, x.size(2), rows)
            into_x, from_x = _inside(j * apart_x - pad_x, right, x.size(3), columns)
            out[:, :, into_y, into_x].addcmul_(x[:, :, from_y, from_x], weight[:, 0, i, j].view(1, -1, 1, 1))
    return out


def _inside(offset: int, step: int, size: int, count: int) -> Tuple[slice, slice]:
    """Return the places, of ``count``, for which ``place * step + offset`` is one of ``size`` positions; and those."""
    first, end = max(0, -(offset // step)), max(0, min(count, (size - 1 - offset) // step + 1))
    start = first * step + offset
    return slice(first, max(first, end)), slice(start, start + max(0, end - first) * step, step)


@contextmanager
def _default_dtype_of(model: nn.Module) -> Iterator[None]:
    """Let new tensors of floats have the dtype of a model's parameters."""
    before = torch.get_default_dtype()
    dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    torch.set_default_dtype(dtypes[0] if dtypes and dtypes[0] in (torch.float32, torch.float64) else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Seed all generators for the block, and restore their states after it."""
    state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


def difference(model: nn.Module, units: Sequence[ChannelUnit], forward: Forward,
               masks: Masks) -> Tuple[float, nn.Module]:
    """Compare the masked dense with the cut model, in eval and in train mode.

    Args:
        model (nn.Module): The dense model, in float64; neither it nor its units are changed.
        units (list[ChannelUnit]): Its units.
        forward (Callable): Called with a model; runs it and returns its outputs.
        masks (dict[str, ndarray[sets], bool]): Unit name -> kept sets; units without a mask stay whole.

    Returns:
        tuple[float, nn.Module]: The largest relative difference of any output, and the cut model.
    """
    dense, cut = mask_dense(model, units, masks), cut_copy(model, units, masks)
    eval_mode = relative_difference(outputs(dense, forward, False), outputs(cut, forward, False))
    trained = sharing_copy(cut)  # its batch norms learn
    train_mode = relative_difference(outputs(dense, forward, True), outputs(trained, forward, True))
    return max(eval_mode, train_mode), cut
