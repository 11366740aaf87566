"""Least squares of what an activation lets through: where it is flat, a layer need not hit the dense outputs.

A layer is solved again for what its activation makes of its outputs, as Zhang et al., Accelerating Very Deep
Convolutional Networks for Classification and Detection (TPAMI 2016), do with a penalty; here the activation is a clamp,
and an output that both networks clamp alike has no error. The least squares with the weight that is there and the
wanted outputs that are nearest to it take turns: both are projections onto convex sets, so that the error never rises.
"""
import math
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .moments import LeastSquares, Moments

#: Turns of the two projections.
TURNS = 5
#: Bytes of the samples that are kept of a layer.
KEPT = 2.5e8
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
        self._parts: Dict[bool, List[Tuple[Tensor, Tensor, Tensor, Tensor]]] = {False: [], True: []}

    def add(self, held: bool, x: Tensor, y: Tensor, added: Optional[Tensor]) -> None:
        """Keep some of the samples.

        Args:
            held (bool): Whether they are held back.
            x (Tensor[G, K, S]): Inputs.
            y (Tensor[G, O, S]): Outputs that are wanted.
            added (Tensor[G, O, S], optional): What the layer's output is added to before the activation.
        """
        size = 4.0 * self.count * (x.size(0) * x.size(1) + y.size(0) * y.size(1))
        step = max(1, math.ceil(size / KEPT))
        x, y = x[:, :, ::step].contiguous(), y[:, :, ::step].contiguous()
        low, high = self.low.to(y.dtype), self.high.to(y.dtype)
        if added is not None:
            low, high = low - added[:, :, ::step], high - added[:, :, ::step]
        self._parts[held].append((x, y, low, high))

    def _predictions(self, held: bool, weight: Tensor, offset: Tensor) -> Iterator[Tuple[Tensor, ...]]:
        """Yield what a weight and an offset return on each part of the samples, and the part."""
        for x, y, low, high in self._parts[held]:
            yield weight.to(x.dtype) @ x + offset[:, :, None].to(x.dtype), x, y, low, high

    def error(self, weight: Tensor, offset: Tensor) -> float:
        """Return the squared error behind the activation on held-back samples, over the variance there."""
        gap, values = 0.0, []
        for found, _, y, low, high in self._predictions(True, weight, offset):
            values.append(clamped(y, low, high) * self.factor.to(y.dtype))
            gap += float((clamped(found, low, high) * self.factor.to(y.dtype) - values[-1]).square().sum())
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
        shift = linear.x[:, :, None]  # zero where there is no offset
        count, (x_sum, y_sum, yx_sum) = 0, (torch.zeros_like(part) for part in (linear.x, linear.y, linear.yx))
        for held in parts:
            for found, x, y, low, high in self._predictions(held, weight, offset):
                change, x = nearest_wanted(found, y, low, high) - y, x - shift.to(x.dtype)
                count += x.size(2)
                x_sum += x.sum(2, dtype=torch.float64)
                y_sum += change.sum(2, dtype=torch.float64)
                yx_sum += change @ x.transpose(1, 2)
        y, yx = y_sum / count, yx_sum / count
        if not self.centred:
            return linear._replace(yx=linear.yx + yx)
        return linear._replace(y=linear.y + y, yx=linear.yx + yx - y[:, :, None] * (x_sum / count)[:, None])

    def solved(self, linear: LeastSquares, parts: Tuple[bool, ...], ridge: float) -> Tuple[Tensor, Tensor]:
        """Return the weight and the offset for what the activation lets through.

        Args:
            linear (LeastSquares): Of all samples, with the dense outputs.
            parts (tuple[bool]): Which samples tell what the activation lets through.
            ridge (float): Strength of the ridge.
        """
        weight, offset = linear.solved(ridge)
        for _ in range(TURNS):
            weight, offset = linear.solved(ridge, self.moments(linear.moments, parts, weight, offset))
        return weight, offset


def clamped(y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return ``y`` between ``low`` and ``high``."""
    return torch.minimum(torch.maximum(y, low), high)


def nearest_wanted(found: Tensor, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return what is nearest to ``found`` of all that is clamped as ``y`` is."""
    below, above = torch.minimum(found, low), torch.maximum(found, high)
    return torch.where(y <= low, below, torch.where(y >= high, above, y))
