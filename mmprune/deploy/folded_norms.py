"""Norms of a cut stream at the price of plain ones: weights of a copy for deployment take over their means.

A layer norm over a stream of which ``K`` of ``C`` channels are left counts the others as zeros. It divides
``x - sum(x) / C`` by the root of ``(sum(x^2) - sum(x)^2 / C) / C + eps``, in which stands ``|T x|^2`` with
``T^2 = I - 1 1^T / C``, so that ``T = I - a 1 1^T``. If the stream holds ``u = T x``, what the norm divides by is a
root mean square of ``K`` channels, and what it divides is ``T u``. All that writes the stream is linear, and so is what
reads a norm: the former takes ``T``, the latter ``T`` and the weight and the bias of the norm. Ashkboos et al.,
SliceGPT (ICLR 2024), take the mean of whole layer norms into weights in this way.

Whatever else reads the stream gets ``x`` back. A stream is folded only if the model computes the same afterwards, in
float64 and with random values as well; others stay as they are.
"""
import copy
import math
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..graph.capture import ERRORS
from ..graph.channels import CoupledChannels, Member
from ..graph.grouping import build_graph
from ..units.attention.norm import StreamNorm
from ..units.equivalence import outputs, randomise, relative_difference
from .matched_rows import CONVOLUTIONS, MatchedRows

#: Largest relative difference of the outputs, in float64.
TOLERANCE = 1e-9


class RootMeanSquareNorm(nn.Module):
    """``weight * x / sqrt(mean(x^2) + eps)`` of ``Tensor[..., K]``, as runtimes know it.

    Args:
        weight (Tensor[K]): The weight.
        eps (float): Added to the mean square.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight), eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class AddedSum(nn.Module):
    """``x + factor * sum(x)`` over channels that lie along an axis, maybe several times.

    Args:
        factor (float): The factor.
        axis (int): Of the channels.
        shape (tuple[int]): Of the axis: channels, and how often they lie there, the faster one last.
        channels (int): Which of the two are channels.
    """

    def __init__(self, factor: float, axis: int, shape: Tuple[int, int], channels: int) -> None:
        super().__init__()
        self.factor, self.axis, self.shape, self.channels = factor, axis, shape, channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``Tensor[..., K, ...]`` of the same shape."""
        axis = self.axis % x.dim()
        parts = x.unflatten(axis, self.shape)
        return (parts + self.factor * parts.sum(axis + self.channels, keepdim=True)).flatten(axis, axis + 1)


def fold_norms(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy whose exact stream norms are root mean squares, or the model where no norm can become one.

    Args:
        model (nn.Module): In eval mode and in float32; it is not changed.
        x (Tensor[N, C, H, W]): An input. The copy computes the same on inputs of any size, unless the model pads what a
            norm returns.
    """
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if types != {torch.float32} or not any(counts_removed(module) for module in model.modules()):
        return model
    wide = x.double()

    def run(model: nn.Module) -> Any:
        return model(wide)

    try:
        pair = [copy.deepcopy(model).double() for _ in range(2)]
        randomise(pair[0], seed=0)  # or nothing tells a branch behind zeros
        wanted, any_is_folded = [outputs(one, run, training=False) for one in pair], False
        for channels in streams(pair[0], run):
            changed = [copy.deepcopy(one) for one in pair]
            fold = Fold(changed[0], channels, run)
            if all(fold.apply(one) for one in changed) and all(relative_difference(
                    before, outputs(one, run, training=False)) < TOLERANCE for before, one in zip(wanted, changed)):
                pair, any_is_folded = changed, True
    except ERRORS as error:
        print_log(f'norms stay as they are in the file: {error}', logger='current', level=10)
        return model
    return pair[1].float() if any_is_folded else model


def counts_removed(module: Any) -> bool:
    """Tell whether a norm counts channels that are gone."""
    return isinstance(module, StreamNorm) and module.counts_removed and module.dense_width > module.weight.numel()


def streams(model: nn.Module, forward: Callable[[nn.Module], Any]) -> List[CoupledChannels]:
    """Return the streams that such norms are over."""
    graph, modules = build_graph(model, forward), dict(model.named_modules())
    return [channels for channels in [*graph.units, *graph.frozen] if any(
        member.axis.across and counts_removed(modules[member.axis.layer]) for member in channels.members)]


class Fold:
    """Changes weights so that a stream's norms are root mean squares.

    Args:
        model (nn.Module): In float64, of which is seen what reads which norm.
        channels (CoupledChannels): The stream.
        forward (Callable): Runs a model.
    """

    def __init__(self, model: nn.Module, channels: CoupledChannels, forward: Callable[[nn.Module], Any]) -> None:
        self.model, self.modules = model, dict(model.named_modules())
        self.norms = {member.axis.layer: member for member in channels.members
                      if member.axis.across and member.axis.tensor.endswith('.weight')}
        self.members = [member for member in channels.members if member.axis.layer not in self.norms]
        self.writers = [member.axis.layer for member in self.members if member.axis.role == 'out']
        names = [*self.norms, *(member.axis.layer for member in self.members if member.axis.layer in self.modules)]
        self.rows = MatchedRows({name: self.modules[name] for name in names}, lambda: forward(model))
        self.sources = self._sources()
        self.folded = [name for name in self.norms if self._can_fold(name)]

    def _sources(self) -> Dict[str, Optional[str]]:
        """Return the norm that each layer reads, None where it reads the stream itself."""
        readers = dict.fromkeys(member.axis.layer for member in self.members if member.axis.role == 'in')
        found = {name: self.rows.source(name, self.norms) for name in readers}
        read = {*found.values()}
        for name in [name for name, norm in found.items() if norm is None]:
            last = self.rows.last_before(name, self.norms)
            found[name] = last if last not in read else None  # a mean over tokens, say, of the norm before it
        return found

    def _can_fold(self, name: str) -> bool:
        """Tell whether all that a norm does can be taken over by the layers that read it."""
        readers = [member for member in self.members if member.axis.role == 'in' and self.sources[
            member.axis.layer] == name]
        return type(self.modules[name]).forward is StreamNorm.forward and self.norms[name].index.shape[1] == 1 and bool(
            readers) and all(self._takes_over(member, name) for member in readers)

    def _takes_over(self, member: Member, norm: str) -> bool:
        """Tell whether a layer reads all of a norm's channels as they are, and can have an offset everywhere."""
        module: Any = self.modules[member.axis.layer]
        size = self._tensor(member.axis.tensor).size(1)
        if self.rows.source(member.axis.layer, [norm]) is None or member.index.size != size:
            return False
        if isinstance(module, CONVOLUTIONS):
            return not any(module.padding)
        return isinstance(module, nn.Linear) or self._bias(member) is not None

    def apply(self, model: nn.Module) -> bool:
        """Fold the stream of a model like that which was seen; tell whether anything of it can be folded."""
        self.model, self.modules = model, dict(model.named_modules())
        layouts = {name: layout_of(member.index) for name, member in self.norms.items()}
        dense = {self.modules[name].dense_width / member.index.shape[1] for name, member in self.norms.items()
                 if isinstance(self.modules[name], StreamNorm)}
        kept = len(next(iter(self.norms.values())).index)
        if not self.folded or None in layouts.values() or len(dense) > 1 or any(
                member.axis.groups > 1 or member.axis.role == 'depthwise' for member in self.members):
            return False
        share = kept / dense.pop()
        into = (math.sqrt(1 - share) - 1) / kept  # T, of which T^-1 is undone by the other
        back = (1 / math.sqrt(1 - share) - 1) / kept
        scales = self._take_scales()
        for member in self.members:
            if member.axis.role != 'in' and member.axis.layer not in scales:
                self._mix(member, into)
            elif member.axis.role == 'in':
                norm = self.sources[member.axis.layer]
                if norm in self.folded:
                    self._take_norm(member, norm)
                if norm is None or norm in self.folded:
                    self._mix(member, back if norm is None else into)
        for name, layout in layouts.items():
            self._replace(name, layout, into, back, share)
        return True

    def _tensor(self, name: str) -> Any:
        owner, _, leaf = name.rpartition('.')
        return getattr(self.model.get_submodule(owner), leaf)

    def _bias(self, member: Member) -> Any:
        return getattr(self.modules[member.axis.layer], member.axis.tensor.rpartition('.')[2].replace(
            'weight', 'bias'), None)

    def _mix(self, member: Member, factor: float) -> None:
        """Multiply a tensor by ``I + factor 1 1^T`` along an axis, in each of the places that hold all channels."""
        tensor = self._tensor(member.axis.tensor)
        values = tensor.data.movedim(member.axis.dim, 0).clone()
        for place in torch.from_numpy(member.index.T.copy()):
            values[place] += factor * values[place].sum(0)
        tensor.data = values.movedim(0, member.axis.dim).contiguous()

    def _take_scales(self) -> List[str]:
        """Let layers that write the stream take what multiplies what they return; return the modules that did it."""
        found = []
        for name in dict.fromkeys(member.axis.layer for member in self.members if member.axis.role == 'affine'):
            own = [*self.modules[name].parameters(recurse=False)] if name in self.modules else []
            source = self.rows.source(name, self.writers) if len(own) == 1 and name not in self.writers else None
            if source is not None:
                for tensor in self.modules[source].parameters(recurse=False):
                    tensor.data *= own[0].data.reshape(-1, *[1] * (tensor.dim() - 1))
                own[0].data.fill_(1.0)
                found.append(name)
        return found

    def _take_norm(self, member: Member, name: str) -> None:
        """Let a layer do what the norm in front of it does with its weight and its bias."""
        module, norm = self.modules[member.axis.layer], self.modules[name]
        weight, bias = self._tensor(member.axis.tensor), self._bias(member)
        order, place = torch.from_numpy(self.norms[name].index[:, 0]), torch.from_numpy(member.index[:, 0])
        if norm.bias is not None:
            offset = weight.data[:, place].flatten(2).sum(2) if weight.dim() > 2 else weight.data[:, place]
            offset = offset @ norm.bias.data[order]
            if bias is None:
                module.bias = nn.Parameter(offset)
            else:
                bias.data += offset
        weight.data[:, place] *= norm.weight.data[order].reshape(-1, *[1] * (weight.dim() - 2))

    def _replace(self, name: str, layout: Any, into: float, back: float, share: float) -> None:
        """Put a root mean square in place of a norm, or give another norm the stream as it was."""
        norm = self.modules[name]
        parent, _, leaf = name.rpartition('.')
        if name in self.folded:
            new: nn.Module = RootMeanSquareNorm(torch.full_like(norm.weight, share ** -0.5), norm.eps / share)
        else:
            new = nn.Sequential(AddedSum(back, norm.axis, *layout), norm)
            if any(self.rows.source(other, [name]) for other in self.norms):  # the stream begins with what it returns
                new.append(AddedSum(into, norm.axis, *layout))
        setattr(self.model.get_submodule(parent), leaf, new)


def layout_of(index: np.ndarray) -> Optional[Tuple[Tuple[int, int], int]]:
    """Return how channels lie along an axis: its shape, and which of the two are channels; None for no such order.

    Args:
        index (ndarray[K, copies]): Where each channel lies.
    """
    kept, copies = index.shape
    places: np.ndarray = np.arange(index.size)
    if np.array_equal(index, places.reshape(copies, kept).T):
        return (copies, kept), 1
    return ((kept, copies), 0) if np.array_equal(index, places.reshape(kept, copies)) else None
