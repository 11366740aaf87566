"""Surgery: which original channels every axis of every tensor holds at present, and how that is changed."""
import math
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.channels import Member
from ..graph.factors import DIMENSIONS, HEADS
from ..graph.trace import Axis, layer_of
from ..graph.written_size import set_attribute
from .baking import Undo, bake
from .layer import refresh_attributes, resize_tensor
from .structure import StructureError
from .unit import ChannelUnit, by_name
from .weight_norm import kept_scale, refresh_masked

#: Of a tensor; a convolution over volumes has 5.
MOST_DIMS = 5


class Surgery:
    """Cuts and pads the tensors of a model so that they follow its units.

    Args:
        model (nn.Module): The model, dense at first.
        units (list[ChannelUnit]): Units of the model; their ``kept`` and ``padding`` are what is true at present.

    Attributes:
        removed_tensors (set[str]): Tensors that the model no longer has, since a whole block was removed.
    """

    def __init__(self, model: nn.Module, units: Sequence[ChannelUnit]) -> None:
        self.model = model
        self.removed_tensors: Set[str] = set()
        self.units = by_name(units)
        self.members: Dict[str, List[Tuple[ChannelUnit, Member]]] = {}
        self.attributes: Dict[str, List[Tuple[ChannelUnit, Member]]] = {}
        for unit in units:
            for member in unit.channels.members:
                self.members.setdefault(member.axis.tensor, []).append((unit, member))
            for member in unit.channels.attributes:
                self.attributes.setdefault(member.axis.tensor, []).append((unit, member))
        #: (tensor, axis) -> heads, their dimensions and how many indices both have
        self.shared = {key: found for name, members in self.members.items() for key, found in _shared(name, members)}
        #: (tensor, axis) that a layer with standardised filters reads -> the layer
        self.standardised = {(member.axis.tensor, member.axis.dim): member.axis.layer for members in
                             self.members.values() for _, member in members if member.axis.standardised}

    @property
    def widths(self) -> Dict[Tuple[str, int], int]:
        """(tensor, axis) -> present size, for every axis that a unit touches."""
        return self._widths({name: unit.num_sets for name, unit in self.units.items()})

    def widths_with(self, masks: Mapping[str, np.ndarray]) -> Dict[Tuple[str, int], int]:
        """Return (tensor, axis) -> size as if the model were cut to the masks; it is not changed."""
        return self._widths({name: int(masks[name].sum()) if name in masks else unit.num_sets
                             for name, unit in self.units.items()})

    def _widths(self, sets: Mapping[str, int]) -> Dict[Tuple[str, int], int]:
        sizes = {(name, dim): 0 for name in self.removed_tensors for dim in range(MOST_DIMS)}
        for members in [*self.members.values(), *self.attributes.values()]:
            for unit, member in members:
                axis = member.axis
                dropped = (len(member.index) - sets[unit.name]) * member.index.shape[1]
                key = (axis.tensor, axis.dim)
                sizes[key] = sizes.get(key, len(axis.ids)) - dropped
        for key, shared in self.shared.items():  # what two units drop was counted twice
            for heads, dims, count in shared:
                whole = [len(unit.kept) for unit in (heads, dims)]
                sizes[key] += count * math.prod(full - sets[unit.name] for full, unit in zip(whole, (heads, dims))
                                                ) // math.prod(whole)
        return sizes

    def cut(self, masks: Mapping[str, np.ndarray], optimizers: Iterable[torch.optim.Optimizer] = (),
            padding: Optional[Mapping[str, int]] = None) -> None:
        """Make the model really have the given sets: parameters, buffers, gradients and optimizer state.

        Args:
            masks (dict[str, ndarray[sets], bool]): Unit name -> which sets shall be present. Sets that were
                dropped before come back as zeros.
            optimizers (iterable[Optimizer]): Optimizers whose state follows.
            padding (dict[str, int]): Unit name -> sets of zeros beyond the original ones.
        """
        units, padding = self.units, padding or {}
        changed = [name for name, mask in masks.items() if not np.array_equal(mask, units[name].kept)]
        changed += [name for name, count in padding.items() if count != units[name].padding]
        tensors = {member.axis.tensor for name in changed for member in units[name].channels.members}
        before = {tensor: self.layout(tensor) for tensor in tensors}
        optimizers = list(optimizers)
        owners = _owners(self.model, tensors)
        for name, mask in masks.items():
            units[name].kept = np.array(mask, dtype=bool)
        for name, count in padding.items():
            units[name].padding = count
        changes = {name: {dim: source for dim, keys in self.layout(name).items() for source in [
            _source(before[name][dim], keys)] if source is not None} for name in tensors}
        self.bake([(name, dim) for name, axes in changes.items() for dim in axes], optimizers)
        with kept_scale(self.model, tensors):
            for name, axes in changes.items():
                resize_tensor(owners[name][0], list(axes.items()), optimizers,
                              fill=1.0 if name.endswith('running_var') else 0.0)
        depthwise = {id(module) for name in tensors for module in owners[name][1]
                     if any(member.axis.role == 'depthwise' for _, member in self.members[name])}
        widths = self.widths
        for name in self.attributes:
            layer, _, attribute = name.rpartition('.')
            set_attribute(self.model.get_submodule(layer), attribute, widths[name, 0])
        for module in {id(m): m for name in tensors for m in owners[name][1]}.values():
            refresh_masked(module)
            refresh_attributes(module, id(module) in depthwise)
        torch.clear_autocast_cache()  # it holds casts of the former tensors

    def bake(self, axes: Iterable[Tuple[str, int]], optimizers: Iterable[torch.optim.Optimizer] = ()) -> List[Undo]:
        """Let the layers that standardise their filters over some of these axes hold what they compute: :mod:`.baking`.

        Args:
            axes (iterable[tuple[str, int]]): Tensor and axis, of any tensors of the units.
            optimizers (iterable[Optimizer]): Optimizers of the model.

        Returns:
            list[Undo]: What undoes it, for each layer that was not baked before.
        """
        done = [bake(self.model.get_submodule(self.standardised[axis]), optimizers) for axis in axes
                if axis in self.standardised]
        return [undo for undo in done if undo is not None]

    def check_sizes(self) -> None:
        """Check that all tensors have the sizes that the units say.

        Raises:
            StructureError: Something else has changed one.
        """
        for name, (tensor, _) in _owners(self.model, self.members).items():
            for dim, keys in self.layout(name).items():
                if tensor.size(dim) != len(keys):
                    raise StructureError(f'{name!r} has {tensor.size(dim)} channels along axis {dim}, and the units '
                                         f'say {len(keys)}: something else has cut the model; find its units anew')

    def mask(self, masks: Mapping[str, np.ndarray], where: Optional[Callable[[Member], bool]] = None) -> None:
        """Set to zero what :meth:`cut` would remove; nothing changes its size.

        The masked model computes what the cut one computes: the layers that read a dropped channel have zeros for it,
        whatever its norm and activation make of it; they are baked where the cut bakes them. The arguments are those of
        :meth:`dropped`.
        """
        dropped = self.dropped(masks, where)
        self.bake(dropped)
        with kept_scale(self.model, {name for name, _ in dropped}):
            for (name, dim), (tensor, index) in dropped.items():
                tensor.detach().index_fill_(dim, index, 1.0 if name.endswith('running_var') else 0.0)
        torch.clear_autocast_cache()

    def dropped(self, masks: Mapping[str, np.ndarray],
                where: Optional[Callable[[Member], bool]] = None) -> Dict[Tuple[str, int], Tuple[Tensor, Tensor]]:
        """Return (tensor name, axis) -> the tensor and the present indices that :meth:`cut` would remove.

        Args:
            masks (dict[str, ndarray[sets], bool]): Unit name -> which sets shall stay.
            where (Callable, optional): Only the members of units for which it is true.
        """
        found: Dict[Tuple[str, int], List[np.ndarray]] = {}
        for name, members in self.members.items():
            for unit, member in members:
                dropped = unit.kept & ~masks.get(unit.name, unit.kept)
                if dropped.any() and (where is None or where(member)):
                    layout = self.layout(name)[member.axis.dim]
                    index = present_indices(layout, member.index[dropped]).reshape(-1)
                    index = np.asarray(np.searchsorted(layout, index))
                    found.setdefault((name, member.axis.dim), []).append(index)
        owners = _owners(self.model, {name for name, _ in found})
        return {(name, dim): (owners[name][0], torch.from_numpy(np.concatenate(parts)).to(owners[name][0].device))
                for (name, dim), parts in found.items()}

    def layout(self, tensor: str) -> Dict[int, np.ndarray]:
        """Return axis -> sorted keys of its present indices: original index, or a fraction above it for padding."""
        kept: Dict[int, np.ndarray] = {}
        padding: Dict[int, List[np.ndarray]] = {}
        for unit, member in self.members[tensor]:
            axis = member.axis
            present = kept.setdefault(axis.dim, np.ones(len(axis.ids), dtype=bool))
            present[member.index[~unit.kept]] = False
            if unit.padding:  # behind the last channel of the unit, in each block of the axis
                for columns in padding_blocks(member.index) or []:
                    count = unit.padding * columns.shape[1]
                    steps = np.arange(1, count + 1) / (count + 1)
                    padding.setdefault(axis.dim, []).append(columns.max() + steps)
        return {dim: np.sort(np.concatenate([np.flatnonzero(present).astype(float), *padding.get(dim, [])]))
                for dim, present in kept.items()}

    def kept_outputs(self, axis: Axis, channels: int) -> np.ndarray:
        """Return which of a dense layer's output channels are present: ``ndarray[present], int``.

        Args:
            axis (Axis): The axis of its weight's rows.
            channels (int): Output channels of the dense layer.
        """
        kept: np.ndarray = self.layout(axis.tensor)[axis.dim].astype(int)
        times = channels // len(axis.ids)  # a grouped transposed weight has a group's rows
        if axis.role == 'depthwise':
            return (kept[:, None] * times + np.arange(times)).reshape(-1)
        return (np.arange(times)[:, None] * len(axis.ids) + kept).reshape(-1)


def present_indices(layout: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return those of the indices ``ndarray[sets, k]`` of present sets that are left, ``ndarray[sets, k']``.

    Where heads and dimensions share rows, a head that stays has lost those of its dimensions, and the reverse.
    """
    present = np.isin(index, layout)
    return index if present.all() else index[present].reshape(len(index), -1)


def _shared(tensor: str, members: Sequence[Tuple[ChannelUnit, Member]]) -> List[Tuple[
        Tuple[str, int], List[Tuple[ChannelUnit, ChannelUnit, int]]]]:
    """Return for every axis of a tensor on which heads and dimensions lie: the two, and how many indices they share."""
    found: Dict[Tuple[str, int], List[Tuple[ChannelUnit, ChannelUnit, int]]] = {}
    for heads, first in [pair for pair in members if pair[0].channels.part == HEADS]:
        for dims, second in [pair for pair in members if pair[0].channels.part in DIMENSIONS]:
            if first.axis.dim == second.axis.dim and (both := len(np.intersect1d(first.index, second.index))):
                found.setdefault((tensor, first.axis.dim), []).append((heads, dims, both))
    return list(found.items())


def _source(before: np.ndarray, after: np.ndarray) -> Optional[Tensor]:
    """Return for each key in ``after`` its position in ``before`` or -1; None where nothing changes."""
    if np.array_equal(before, after):
        return None
    place = np.searchsorted(before, after) % len(before)
    return torch.from_numpy(np.where(before[place] == after, place, -1))


def padding_blocks(index: np.ndarray) -> Optional[List[np.ndarray]]:
    """Split the indices ``ndarray[sets, k]`` of a member into blocks behind which channels can be appended.

    Returns:
        list[ndarray[sets, w]] or None: Column blocks in which the sets follow one another without a gap, ``w``
        indices each (one for a plain layer, H*W behind a flatten); None where other channels lie in between.
    """
    breaks: np.ndarray = np.flatnonzero((np.diff(index, axis=1) != 1).any(axis=0)) + 1
    blocks = np.split(index, breaks, axis=1)
    for block in blocks:
        if (np.diff(block[:, 0]) != block.shape[1]).any():
            return None
    return blocks


def _owners(model: nn.Module, tensors: Iterable[str]) -> Dict[str, Tuple[Tensor, List[nn.Module]]]:
    """Return name -> (tensor, all modules that hold it)."""
    found: Dict[str, Tuple[Tensor, List[nn.Module]]] = {}
    wanted = {}
    for name in tensors:
        layer, _, attribute = name.rpartition('.')
        tensor = getattr(model.get_submodule(layer), attribute)
        wanted[id(tensor)] = name
        found[name] = (tensor, [])
    for module in model.modules():
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if id(tensor) in wanted:
                found[wanted[id(tensor)]][1].append(module)
    for name, (_, modules) in found.items():
        if layer_of(name) != name.rpartition('.')[0]:  # a parametrization's: its layer has the sizes
            modules.append(model.get_submodule(layer_of(name)))
    return found
