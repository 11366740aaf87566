"""Least squares of what an activation lets through: where it is flat, a layer need not hit the dense outputs.

A layer is solved again for what its activation makes of its outputs, as Zhang et al., Accelerating Very Deep
Convolutional Networks for Classification and Detection (TPAMI 2016), do with a penalty; here the activation is a clamp,
and an output that both networks clamp alike has no error. The least squares with the weight that is there and the
wanted outputs that are nearest to it take turns: both are projections onto convex sets, so that the error never rises.
"""
import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .moments import LeastSquares, Moments

#: Turns of the two projections, and those from what fewer samples gave.
TURNS, MORE_TURNS = 5, 2
#: Bytes of the samples that are kept of a layer.
KEPT = 4.5e8
#: Functions that clamp between 0 and infinity.
RELUS = {F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


class Clip(NamedTuple):
    """An activation that is a clamp."""

    low: float  #: it returns no less
    high: float  #: it returns no more


class Clipping(NamedTuple):
    """A clamp that was seen in a forward."""

    clip: Clip
    x: Tensor  #: what it reads
    out: Tensor  #: what it returns, which may be the same tensor
    used: int  #: how often ``x`` had been used before


def clip_of(func: Any, args: Any, kwargs: Any) -> Optional[Clip]:
    """Return which clamp a function is, as it is called; None where it is none."""
    if func in RELUS:
        return Clip(0.0, math.inf)
    if func is F.relu6:
        return Clip(0.0, 6.0)
    if func is F.hardtanh:
        given = {**dict(zip(('input', 'min_val', 'max_val'), args)), **kwargs}
        return Clip(float(given.get('min_val', -1.0)), float(given.get('max_val', 1.0)))
    return None


class Part(NamedTuple):
    """Some samples, with a one below the inputs, so that an offset is the last column of a weight."""

    x: Tensor  #: ``Tensor[G, K + 1, S]``: inputs about a mean
    y: Tensor  #: ``Tensor[G, O, S]``: outputs that are wanted
    lowest: Tensor  #: ``Tensor[G, O, S]``: how much less than ``y`` would be clamped alike, 0 or below
    highest: Tensor  #: ``Tensor[G, O, S]``: how much more would be, 0 or above
    flat: Tuple[Tensor, Tensor]  #: outputs below and above which the activation is flat
    total: Tensor  #: ``Tensor[G, K]``: sum of the inputs


class Samples:
    """Samples of a layer in front of a clamp, of which some are kept.

    Args:
        low, high (Tensor[G, O, 1]): Outputs below and above which the activation is flat.
        factor (Tensor[G, O, 1]): By what an output is multiplied before the activation.
        centred (bool): The layer can have an offset.
        count (int): How many samples there will be.
    """

    def __init__(self, low: Tensor, high: Tensor, factor: Tensor, centred: bool, count: int) -> None:
        self.low, self.high, self.factor, self.centred, self.count = low, high, factor, centred, count
        self._parts: Dict[bool, List[Part]] = {False: [], True: []}
        self._shift: Optional[Tensor] = None

    def add(self, held: bool, x: Tensor, y: Tensor, added: Optional[Tensor]) -> None:
        """Keep some of the samples.

        Args:
            held (bool): Whether they are held back.
            x (Tensor[G, K, S]): Inputs.
            y (Tensor[G, O, S]): Outputs that are wanted.
            added (Tensor[G, O, S], optional): What the layer's output is added to before the activation.
        """
        size = 4.0 * self.count * (x.size(0) * x.size(1) + (3 if added is None else 5) * y.size(0) * y.size(1))
        step = max(1, math.ceil(size / KEPT))
        if self._shift is None:
            self._shift = x.mean(2, keepdim=True) if self.centred else torch.zeros_like(x[:, :, :1])
        x, y = x[:, :, ::step], y[:, :, ::step].contiguous()
        x = x - self._shift
        total, x = x.sum(2, dtype=torch.float64), torch.cat([x, torch.ones_like(x[:, :1])], 1)
        low, high = self.low.to(y.dtype), self.high.to(y.dtype)
        if added is not None:
            low, high = low - added[:, :, ::step], high - added[:, :, ::step]
        self._parts[held].append(Part(x, y, *alike(y, low, high), (low, high), total))

    def _homogeneous(self, weight: Tensor, offset: Tensor) -> Tensor:
        """Return ``Tensor[G, O, K + 1]``: a weight with the offset about the mean as its last column."""
        assert self._shift is not None
        about = offset[:, :, None] + weight @ self._shift.to(weight.dtype)
        return torch.cat([weight, about], 2).to(self._shift.dtype)

    def error(self, weight: Tensor, offset: Tensor) -> float:
        """Return the squared error behind the activation on held-back samples, over the variance there."""
        gap, values, both = 0.0, [], self._homogeneous(weight, offset)
        for part in self._parts[True]:
            factor = self.factor.to(part.y.dtype)
            values.append(clamped(part.y, *part.flat) * factor)
            gap += float((clamped(both @ part.x, *part.flat) * factor - values[-1]).square().sum())
        wanted = torch.cat(values, 2)
        return gap / max(float((wanted - wanted.mean(2, keepdim=True)).square().sum()), 1e-30)

    def moments(self, linear: Moments, parts: Tuple[bool, ...], weight: Tensor, offset: Tensor) -> Moments:
        """Return the moments with the wanted outputs that are nearest to those of a weight and an offset.

        Args:
            linear (Moments): Of all samples, with the dense outputs.
            parts (tuple[bool]): Which samples: those that are held back, or the others.
            weight (Tensor[G, O, K]): The weight.
            offset (Tensor[G, O]): The offset.
        """
        assert self._shift is not None
        both, count, total = self._homogeneous(weight, offset), 0, torch.zeros_like(linear.x)
        changes = torch.zeros(*both.shape, dtype=linear.yx.dtype, device=both.device)  # with inputs, and with one
        for part in (part for held in parts for part in self._parts[held]):
            change = torch.baddbmm(part.y, both, part.x, beta=-1).clamp_(part.lowest, part.highest)
            changes += change @ part.x.transpose(1, 2)
            count += part.x.size(2)
            total += part.total
        changes /= count
        yx, y = changes[:, :, :-1], changes[:, :, -1]
        if not self.centred:
            return linear._replace(yx=linear.yx + yx)
        return linear._replace(y=linear.y + y, yx=linear.yx + yx - y[:, :, None] * (total / count)[:, None])

    def solved(self, linear: LeastSquares, parts: Tuple[bool, ...], ridge: float,
               near: Optional[Tuple[Tensor, Tensor]] = None) -> Tuple[Tensor, Tensor]:
        """Return the weight and the offset for what the activation lets through.

        Args:
            linear (LeastSquares): Of all samples, with the dense outputs.
            parts (tuple[bool]): Which samples tell what the activation lets through.
            ridge (float): Strength of the ridge.
            near (tuple[Tensor, Tensor], optional): Weight and offset that were found for fewer samples; a few more
                turns are enough from there.
        """
        weight, offset = near or linear.solved(ridge)
        for _ in range(TURNS if near is None else MORE_TURNS):
            weight, offset = linear.solved(ridge, self.moments(linear.moments, parts, weight, offset))
        return weight, offset


def alike(y: Tensor, low: Tensor, high: Tensor) -> Tuple[Tensor, Tensor]:
    """Return by how much less, and by how much more than ``y`` an output may be and is clamped as ``y`` is."""
    none, below, above = torch.zeros_like(y), y <= low, y >= high
    return (torch.where(above, high - y, none).masked_fill_(below, -math.inf),
            torch.where(below, low - y, none).masked_fill_(above, math.inf))


def clamped(y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return ``y`` between ``low`` and ``high``."""
    return torch.minimum(torch.maximum(y, low), high)
