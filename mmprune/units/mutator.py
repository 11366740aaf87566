"""The channel mutator: traces a model, builds its units, and cuts it to a structure."""
import math
from typing import Any, Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from torch import nn

from ..arguments import UserError
from ..graph.channels import ChannelGraph, CoupledChannels, Member
from ..graph.demo_input import build_demo_input
from ..graph.grouping import build_graph
from ..registry import MODELS, build
from .block_removal import Block, find_blocks, remove, switch_off
from .breaking import breaking_units
from .choice import Choice, Floor, Patterns, layers_of
from .complexity import Complexity
from .kept_state import KeptState
from .layer import check_optimizers
from .ranks import order_of, take_order
from .reasons import what_stays
from .structure import Structure, StructureError, check_structure, relocate
from .surgery import Surgery, present_indices
from .transformer import Transformer
from .unit import ChannelUnit, by_name
from .unsaved import check_says_which, units_with_constants


class NoPrunableUnitError(UserError):
    """No channel of the model may be pruned."""


@MODELS.register_module()
class ChannelMutator(KeptState):
    """The units of a model, which sets of them are kept, and its structure.

    Args:
        channel_unit_cfg (dict): Type and arguments of the units.
        demo_input (dict or list[dict]): How to run the model once, or several times where one input does not reach all
            of its branches; see :mod:`mmprune.graph.demo_input`.
        include, exclude, min_channels, attention, stream: See :class:`~mmprune.units.choice.Choice`.
        trial_cut (bool): Cut a copy of the model once and freeze the units that break it; see :mod:`.trial`.

    Attributes:
        units (list[ChannelUnit]): May be pruned, in the order of the forward pass.
        frozen (list[CoupledChannels]): Must stay, each with its reason.
        complexity (Complexity): Costs of structures.
    """

    units: List[Any]
    frozen: List[CoupledChannels]
    complexity: Complexity
    model: nn.Module

    def __init__(self, channel_unit_cfg: Optional[dict] = None, demo_input: Union[None, dict, Sequence[dict]] = None,
                 include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                 min_channels: Union[Floor, Mapping[str, Floor]] = 1, trial_cut: bool = True, attention: bool = True,
                 stream: str = 'exact') -> None:
        super().__init__()
        self.channel_unit_cfg = dict(channel_unit_cfg or dict(type='ChannelUnit'))
        self.demo_input = build_demo_input(demo_input)
        self.choice = Choice(include, exclude, min_channels, attention, stream)
        self.transformer = Transformer(self.choice)
        self.trial_cut = trial_cut

    def prepare(self, model: nn.Module, proven: Collection[str] = ()) -> None:
        """Trace the dense model and build its units.

        Args:
            model (nn.Module): The dense architecture; the other methods change it in place.
            proven (collection[str]): Names of units that the trial cut skips, such as those of a structure, under
                whatever prefix.

        Raises:
            NoPrunableUnitError: No channel of the model may be pruned; the message says why.
            PatternError: A pattern matches no layer.
        """
        # not as a child module: the architecture belongs to the algorithm
        object.__setattr__(self, 'model', model)
        self.transformer.take(model, self.demo_input)
        graph = build_graph(model, self.demo_input)
        self.complexity = Complexity.of(model, graph)
        self.choice.check(layers_of([*graph.units, *graph.frozen]))
        self.units, self.frozen = [], list(graph.frozen)
        for channels in graph.units:
            unit = build(MODELS, dict(self.channel_unit_cfg, channels=channels))
            unit.min_sets = math.ceil(self.choice.min_channels_of(channels) / unit.multiplicity)
            self.units.append(unit)
        self._freeze({unit.name: reason for unit in self.units if (
            reason := unit.reason_to_freeze(graph.kinds) or self.choice.reason_to_freeze(unit.channels)
            or self._reason_to_freeze(unit.channels, graph))})
        if self.trial_cut:
            known = relocate(dict.fromkeys(proven), [unit.name for unit in self.units])
            self._freeze(breaking_units(model, self.units, self.demo_input, known))
        self.transformer.settle(model, [unit.channels for unit in self.units], self.frozen)
        self.surgery = Surgery(model, self.units)
        self.removed: List[Any] = []
        self._order = [unit.name for unit in self.units]
        self._blocks: Optional[List[Block]] = None
        if not self.units:
            raise NoPrunableUnitError(f'{type(model).__name__} has no unit that may be pruned:\n  ' + '\n  '.join(
                what_stays(self.frozen, self.complexity.macs_by_layer({}))))

    def _freeze(self, reasons: Mapping[str, str]) -> None:
        """Move units to the frozen channels; ``reasons`` has unit name -> reason."""
        for unit in self.units:
            unit.channels.reason = reasons.get(unit.name)
        self.frozen += [unit.channels for unit in self.units if unit.name in reasons]
        self.units = [unit for unit in self.units if unit.name not in reasons]

    def _reason_to_freeze(self, channels: CoupledChannels, graph: ChannelGraph) -> Optional[str]:
        """Return why this mutator cannot prune the channels, or None."""
        return None

    @property
    def all_units(self) -> List[Any]:
        """All units, those of removed blocks included, in the order of the forward pass."""
        units = by_name([*self.units, *self.removed])
        return [units[name] for name in self._order]

    @property
    def layers(self) -> List[str]:
        """Names of all conv and linear layers, each once."""
        return layers_of([*(unit.channels for unit in self.all_units), *self.frozen])

    @property
    def dense_widths(self) -> Dict[str, int]:
        """Unit name -> channels of the first producer before pruning."""
        return {unit.name: unit.width for unit in self.all_units}

    @property
    def structure(self) -> Structure:
        """Unit name -> present channels of the first producer; 0 if its block was removed."""
        return {unit.name: unit.current_width for unit in self.all_units}

    @property
    def portable_structure(self) -> Dict[str, Any]:
        """The structure, with a list of the channels that stay where constants follow that no checkpoint holds."""
        listed = units_with_constants(self.model, self.units)
        return {unit.name: unit.kept_channels.nonzero()[0].tolist()
                if unit.name in listed and unit.current_width < unit.width else unit.current_width
                for unit in self.all_units}

    @property
    def sets(self) -> Dict[str, int]:
        """Unit name -> present sets."""
        return {unit.name: unit.num_sets for unit in self.all_units}

    @property
    def widths(self) -> Dict[Tuple[str, int], int]:
        """(tensor, axis) -> present size, for every axis that a unit touches."""
        return self.surgery.widths

    @property
    def cost(self) -> Dict[str, int]:
        """``{'macs', 'params', 'acts'}`` of the present structure."""
        return self.complexity.cost(self.widths)

    @property
    def orders(self) -> Dict[str, np.ndarray]:
        """Unit name -> ranks of the dimensions of heads, to which masks belong; see :mod:`.ranks`."""
        found = {unit.name: order_of(unit) for unit in self.units}
        return {name: order for name, order in found.items() if order is not None}

    def take_orders(self, orders: Mapping[str, np.ndarray]) -> None:
        """Let the dimensions of heads stand as in another copy of the model, whose masks come next."""
        units = by_name(self.units)
        for name, order in orders.items():
            take_order(units[name], np.asarray(order))

    @property
    def blocks(self) -> List[Block]:
        """Residual blocks that can be removed; their units may have 0 channels."""
        if self._blocks is None:
            self._blocks = find_blocks(self.model, self.units, self.frozen, self.demo_input)
        return self._blocks

    def _removable(self, structure: Mapping[str, Any]) -> Set[str]:
        """Return the units that may have 0 channels, if a structure has any with 0."""
        if 0 not in structure.values():
            return set()
        return {unit.name for unit in self.removed} | {name for block in self.blocks for name in block.units}

    def apply_structure(self, structure: Mapping[str, Union[int, Sequence[int]]],
                        optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
        """Cut the model to a structure, or to that of a part, such as ``backbone.*``, under whatever prefix.

        Args:
            structure (dict[str, int or list[int]]): Unit name -> channels of its first producer that stay: how many,
                from the first on, or which.
            optimizers (list[Optimizer]): Optimizers whose state follows.

        Raises:
            StructureError: The structure does not fit the model.
            OptimizerError: The state of an optimizer cannot follow.
        """
        structure = relocate(structure, self._order)
        counts = {name: len({repr(channel) for channel in value}) if isinstance(value, (list, tuple)) else value
                  for name, value in structure.items()}
        units = self.all_units
        check_structure(counts, units, frozen={channels.name: channels.reason for channels in self.frozen},
                        removable=self._removable(counts))
        check_says_which(structure, self.model, units)
        self.cut({unit.name: unit.mask_of_numbers(structure[unit.name]) if unit.name in structure else unit.kept | True
                  for unit in units}, optimizers)

    def cut(self, masks: Mapping[str, np.ndarray], optimizers: Iterable[torch.optim.Optimizer] = (),
            padding: Optional[Mapping[str, int]] = None) -> None:
        """Resize the model to the given sets: parameters, buffers, gradients and optimizer state.

        Args:
            masks (dict[str, ndarray[sets], bool]): Unit name -> which sets to keep; sets that were dropped before come
                back as zeros. A block is removed if the units in it keep none.
            optimizers (iterable[Optimizer]): Optimizers whose state follows.
            padding (dict[str, int]): Unit name -> sets of zeros beyond the original ones.

        Raises:
            StructureError: A unit has no channels and its block is not removed, or has some and its block was removed.
            OptimizerError: The state of an optimizer cannot follow.
        """
        optimizers = list(optimizers)
        check_optimizers(self.model, optimizers)
        for block in self._emptied(masks):
            self._remove(block)
        removed = by_name(self.removed)
        self.surgery.cut({name: mask for name, mask in masks.items() if name not in removed}, optimizers, padding)

    def mask(self, masks: Mapping[str, np.ndarray]) -> None:
        """Set to zero what :meth:`cut` would remove: the model computes what the cut model would, in its own shape."""
        for block in self._emptied(masks):
            switch_off(self.model, block.ending)
        self.surgery.mask(masks)

    def _emptied(self, masks: Mapping[str, np.ndarray]) -> List[Block]:
        """Return the blocks of which the masks keep nothing."""
        removed = by_name(self.removed)
        again = [name for name in removed if name in masks and masks[name].any()]
        if again:
            raise StructureError(f'unit {again[0]!r} has channels again, but its block was removed')
        empty = {name for name, mask in masks.items() if name not in removed and not np.any(mask)}
        found = [block for block in self.blocks if empty.issuperset(block.units)] if empty else []
        left = empty - {name for block in found for name in block.units}
        if left:
            raise StructureError(f'unit {sorted(left)[0]!r} is left without channels; only a residual block can be '
                                 'removed, with all of its units')
        return found

    def _remove(self, block: Block) -> None:
        tensors = remove(self.model, block)
        inside = [unit for unit in self.units if unit.name in block.units]
        for unit in inside:
            unit.kept = np.zeros_like(unit.kept)
        self.removed += inside
        self.units = [unit for unit in self.units if unit.name not in block.units]
        self._blocks = [other for other in self.blocks if other is not block]
        for channels in [*(unit.channels for unit in self.units), *self.frozen]:
            channels.forget(tensors)
        before, self.surgery = self.surgery, Surgery(self.model, self.units)
        self.surgery.removed_tensors = before.removed_tensors | set(tensors)

    def release(self) -> None:
        """Remove what the mutator has put into the model, such as hooks; here nothing."""

    def rank_state(self) -> Dict[str, torch.Tensor]:
        """Return what this process alone has accumulated, for an exact resume."""
        return {}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`rank_state` returned."""

    def layout(self, tensor: str) -> Dict[int, np.ndarray]:
        """Return axis -> sorted keys of its present indices; see :meth:`Surgery.layout`."""
        return self.surgery.layout(tensor)

    def positions(self, unit: ChannelUnit, member: Member) -> torch.Tensor:
        """Return the indices of a unit's present sets on a member's axis, ``LongTensor[C, k]``."""
        layout = self.layout(member.axis.tensor)[member.axis.dim]
        return torch.from_numpy(np.searchsorted(layout, present_indices(layout, member.index[unit.kept])))

    def leave_whole(self, reasons: Mapping[str, str]) -> None:
        """Prune units no more, which the checkpoint of an earlier version does not have: unit name -> why."""
        if reasons:
            self._freeze(reasons)
            self._order = [name for name in self._order if name not in reasons]
            self._blocks = None
            before, self.surgery = self.surgery, Surgery(self.model, self.units)
            self.surgery.removed_tensors = before.removed_tensors
