"""A layer that is solved again: its weight, and where its offset lies."""
import math
from dataclasses import dataclass, replace
from typing import Any, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.channels import Member
from ..units.mutator import ChannelMutator
from .clipping import Clip
from .sampling import Sampling
from .summand import Summand
from .windows import channels_first, spatial

#: A norm's factor below this share of its largest lets nothing through by which a layer could make up for something.
SMALL_FACTOR = 1e-3
#: Between the name of a module and the number of a part of a parameter.
PART = '#'


@dataclass
class Layer:
    """A convolution or linear layer of a cut model, or rows of a parameter that are one, beside its dense twin.

    Its offset is its bias, or lies in the batch norms that it alone feeds. There the offset counts against the dense
    norm's mean, however often a layer is repaired.
    """

    name: str  #: name of the module; where it reads several parts of a parameter, with the number of the part
    weight: str  #: name of the parameter
    module: Any  #: the layer of the cut model
    rows: Tensor  #: ``LongTensor[O]``: which of the dense layer's outputs are present
    norms: Tuple[Tuple[Any, Any], ...]  #: batch norms that it alone feeds, each with its dense twin
    calls: int  #: how often a forward calls it
    sampling: Sampling  #: how much of it is looked at
    source: int  #: the same number for layers that read the same tensor
    may_add_bias: bool = False  #: a bias is added where there is no place for the offset
    summand: Optional[Summand] = None  #: what its output is added to
    clip: Optional[Clip] = None  #: the clamp that alone reads its output
    turns: Tuple[int, ...] = ()  #: which calls of the module in a forward are this layer's; none where all are

    @property
    def watched(self) -> str:
        """Name of the module that runs it."""
        return self.name.partition(PART)[0]

    @property
    def has_offset(self) -> bool:
        """Whether there is, or may be, an offset."""
        return bool(self.norms) or self.module.bias is not None or self.may_add_bias

    def grouped(self, tensor: Tensor) -> Tensor:
        """Return the outputs ``Tensor[O, *]`` of the layer by group: ``Tensor[G, O / G, K]``, or without ``K``."""
        tensor = tensor.reshape(getattr(self.module, 'groups', 1), -1, *tensor.shape[1:])
        return tensor.flatten(2) if tensor.dim() > 2 else tensor

    def current(self) -> Tuple[Tensor, Tensor]:
        """Return weight ``Tensor[G, O, K]`` and offset ``Tensor[G, O]``, as seen through the dense norm; float64."""
        weight = self.module.weight.detach().double()
        offset = torch.zeros_like(weight[:, 0].reshape(len(weight), -1)[:, 0])
        if self.module.bias is not None:
            offset = self.module.bias.detach().double()
        if self.norms:
            norm, dense = self.norms[0]
            scale = ((dense.running_var[self.rows] + dense.eps).double() / (norm.running_var + norm.eps)).sqrt()
            weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
            offset = dense.running_mean[self.rows].double() + scale * (offset - norm.running_mean)
        return self.grouped(weight), self.grouped(offset)

    def sampled(self, out: Tensor, places: Tensor, rows: Optional[Tensor] = None) -> Tensor:
        """Return ``Tensor[O, N * places]``, an output of the layer, or what has its shape, at some positions."""
        out = spatial(channels_first(self.module, out)).transpose(1, 2)
        out = out[:, places].flatten(0, 1).transpose(0, 1)  # rows of channels lie together, as a rule
        return out if rows is None else out[rows]

    def before_norm(self, added: Tensor) -> Tensor:
        """Return by how much the layer's output must change for ``Tensor[O, S]`` more behind its norm."""
        if not self.norms:
            return added
        factor, small = self._factor()
        return added * torch.where(small, torch.zeros_like(factor), 1 / factor)[:, None]

    def _factor(self) -> Tuple[Tensor, Tensor]:
        """Return by what its norm multiplies each output, ``Tensor[O]``, and where that is next to nothing."""
        dense = self.norms[0][1]
        factor = (dense.running_var[self.rows] + dense.eps).rsqrt()
        factor = factor if dense.weight is None else factor * dense.weight.detach()[self.rows]
        return factor, factor.abs() < SMALL_FACTOR * factor.abs().amax()

    def flat(self) -> Tuple[Tensor, Tensor, Tensor]:
        """Return outputs below and above which its clamp is flat, and the norm's factors: ``Tensor[G, O / G, 1]``."""
        assert self.clip is not None
        ones = torch.ones(len(self.rows), dtype=torch.float64, device=self.rows.device)
        low, high, factor = self.clip.low * ones, self.clip.high * ones, ones
        if self.norms:
            dense = self.norms[0][1]
            factor, small = self._factor()
            shift = torch.zeros_like(factor) if dense.bias is None else dense.bias.detach()[self.rows]
            ends = torch.stack([(end - shift) / factor + dense.running_mean[self.rows] for end in (low, high)])
            low, high = (torch.where(small, torch.full_like(end, side), end)
                         for end, side in zip((ends.amin(0), ends.amax(0)), (-math.inf, math.inf)))
        low, high, factor = (self.grouped(part)[..., None] for part in (low, high, factor))
        return low, high, factor

    def write(self, weight: Tensor, offset: Tensor) -> None:
        """Let the layer have a weight ``Tensor[G, O, K]`` and an offset ``Tensor[G, O]``; a bias must be there."""
        bias = self.module.bias
        self.module.weight.detach().copy_(weight.reshape(self.module.weight.shape))
        for norm, dense in self.norms:
            mean = dense.running_mean[self.rows].double() - offset.reshape(-1)
            norm.running_mean.copy_(mean if bias is None else mean + bias.detach())
            norm.running_var.copy_(dense.running_var[self.rows])
        if not self.norms and bias is not None:
            bias.detach().copy_(offset.reshape(-1))


def add_bias(mutator: ChannelMutator, layer: Layer) -> None:
    """Give a layer a bias of zeros, which later cuts follow."""
    weight, name = layer.module.weight, layer.weight
    layer.module.bias = nn.Parameter(weight.detach().new_zeros(len(weight)))
    for unit, member in list(mutator.surgery.members.get(name, [])):
        axis = member.axis
        if axis.dim:
            continue
        bias = replace(axis, tensor=name[:-len('weight')] + 'bias', role='affine', groups=1)
        unit.channels.members.append(Member(bias, member.index))
        mutator.surgery.members.setdefault(bias.tensor, []).append((unit, unit.channels.members[-1]))


def present_outputs(mutator: ChannelMutator, weight: str, channels: int) -> Tensor:
    """Return which of the dense layer's outputs a cut layer has: ``LongTensor[O]``.

    Args:
        mutator (ChannelMutator): Of the cut model.
        weight (str): Name of the layer's weight.
        channels (int): Outputs of the dense layer.
    """
    axis = next((member.axis for _, member in mutator.surgery.members.get(weight, []) if member.axis.dim == 0), None)
    rows: np.ndarray = np.arange(channels) if axis is None else mutator.surgery.kept_outputs(axis, channels)
    return torch.from_numpy(rows)


def dropped_inputs(mutator: ChannelMutator, weight: str) -> Optional[str]:
    """Return the unit that a weight reads, of which channels are gone; None where all are there."""
    return next((unit.name for unit, member in mutator.surgery.members.get(weight, [])
                 if member.axis.role in ('in', 'depthwise') and not unit.kept.all()), None)
