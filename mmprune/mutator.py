"""The channel mutator: all units of a model, their present structure, and the surgery that makes it real."""
import math
from typing import Any, Collection, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine import dist
from torch import Tensor, nn

from . import ops
from .choice import Choice, Patterns, layers_of
from .complexity import Complexity
from .graph import ChannelGraph, CoupledChannels, build_graph
from .registry import MODELS, TASK_UTILS, build
from .structure import Structure, check_structure, relocate
from .surgery import Surgery
from .trial import breaking_units
from .unit import by_name

KEPT = 'kept.'


class NoPrunableUnitError(ValueError):
    """Every channel of the model is frozen."""


@MODELS.register_module()
class ChannelMutator(nn.Module):
    """Units of a model, choices of kept channels, and structure input and output.

    Args:
        channel_unit_cfg (dict): Type and arguments of the units.
        demo_input (dict): How to run the model once; see :mod:`mmprune.demo_input`.
        include (str or list[str], optional): Only units whose producers match one of these patterns are pruned; see
            :class:`~mmprune.choice.Choice`.
        exclude (str or list[str], optional): Units with a producer that matches stay.
        min_channels (int or dict[str, int]): Channels of a unit that stay at least, for all or by pattern.
        trial_cut (bool): Cut a copy of the model once and freeze the units that break it; see :mod:`mmprune.trial`.

    Attributes:
        units (list[ChannelUnit]): May be pruned, in the order of the forward pass.
        frozen (list[CoupledChannels]): Must stay, each with its reason.
        complexity (Complexity): Costs of structures.
    """

    units: List[Any]
    frozen: List[CoupledChannels]
    complexity: Complexity
    model: nn.Module

    def __init__(self, channel_unit_cfg: Optional[dict] = None, demo_input: Optional[dict] = None,
                 include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                 min_channels: Union[int, Mapping[str, int]] = 1, trial_cut: bool = True) -> None:
        super().__init__()
        self.channel_unit_cfg = dict(channel_unit_cfg or dict(type='ChannelUnit'))
        self.demo_input = build(TASK_UTILS, demo_input or dict(type='DemoInput'))
        self.choice = Choice(include, exclude, min_channels)
        self.trial_cut = trial_cut

    def prepare(self, model: nn.Module, proven: Collection[str] = ()) -> None:
        """Trace the dense model and build its units.

        Args:
            model (nn.Module): The dense architecture; it is changed in place by everything that follows.
            proven (collection[str]): Units that a prune run has found, such as those of a structure (of a part of the
                model, under whatever prefix); the trial cut leaves them out.

        Raises:
            NoPrunableUnitError: No channel of the model may be pruned; the message says why.
            PatternError: A pattern matches no layer.
        """
        # not a child module: the architecture belongs to the algorithm
        object.__setattr__(self, 'model', model)
        graph = build_graph(model, self.demo_input)
        self.complexity = Complexity.of(model, graph)
        self.choice.check(layers_of([*graph.units, *graph.frozen]))
        self.units, self.frozen = [], list(graph.frozen)
        for channels in graph.units:
            unit = build(MODELS, dict(self.channel_unit_cfg, channels=channels))
            unit.min_classes = math.ceil(self.choice.min_channels_of(channels) / unit.multiplicity)
            self.units.append(unit)
        self._freeze({unit.name: reason for unit in self.units if (
            reason := unit.reason_to_freeze(graph.kinds) or self.choice.reason_to_freeze(unit.channels)
            or self._reason_to_freeze(unit.channels, graph))})
        if self.trial_cut:
            known = relocate(dict.fromkeys(proven), [unit.name for unit in self.units])
            self._freeze(breaking_units(model, self.units, self.demo_input, known))
        if not self.units:
            lines = [f'{channels.name}: {channels.frozen}' for channels in self.frozen[:10]]
            raise NoPrunableUnitError(f'{type(model).__name__} has no unit that may be pruned:\n  '
                                      + '\n  '.join(lines or ['it calls no conv or linear layer']))
        self.surgery = Surgery(model, self.units)

    def _freeze(self, reasons: Mapping[str, str]) -> None:
        """Move units to the frozen channels, by name with a reason."""
        for unit in self.units:
            unit.channels.frozen = reasons.get(unit.name)
        self.frozen += [unit.channels for unit in self.units if unit.name in reasons]
        self.units = [unit for unit in self.units if unit.name not in reasons]

    def _reason_to_freeze(self, channels: CoupledChannels, graph: ChannelGraph) -> Optional[str]:
        """Return why this mutator cannot prune the channels, or None."""
        return None

    # structure

    @property
    def structure(self) -> Structure:
        """Unit name -> channels of the first producer at present."""
        return {unit.name: unit.current_width for unit in self.units}

    @property
    def widths(self) -> Dict[Tuple[str, int], int]:
        """(tensor, axis) -> present size, for every axis that a unit touches."""
        return self.surgery.widths

    @property
    def cost(self) -> Dict[str, int]:
        """``{'macs', 'params', 'acts'}`` of the present structure."""
        return self.complexity.cost(self.widths)

    @property
    def kept(self) -> Dict[str, np.ndarray]:
        """Unit name -> 0/1 vector of the first producer's original width."""
        return {unit.name: unit.kept_channels for unit in self.units}

    def apply_structure(self, structure: Mapping[str, int],
                        optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
        """Cut the model to the counts of a structure; the first channels of each unit stay.

        A structure of one part of a model, made for ``backbone.*``, also fits where the part has another prefix.

        Raises:
            StructureError: The structure does not fit the model.
        """
        structure = relocate(structure, [unit.name for unit in self.units])
        check_structure(structure, self.units, frozen={channels.name: channels.frozen for channels in self.frozen})
        masks = {}
        for unit in self.units:
            mask: np.ndarray = np.zeros(len(unit.kept), dtype=bool)
            mask[:structure[unit.name] // unit.multiplicity] = True
            masks[unit.name] = mask
        self.cut(masks, optimizers)

    def cut(self, masks: Mapping[str, np.ndarray], optimizers: Iterable[torch.optim.Optimizer] = (),
            padding: Optional[Mapping[str, int]] = None) -> None:
        """Make the model really have the given classes: parameters, buffers, gradients and optimizer state.

        Args:
            masks (dict[str, ndarray[classes], bool]): Unit name -> which classes shall be there. Classes that were
                dropped before come back as zeros.
            optimizers (iterable[Optimizer]): Optimizers whose state follows.
            padding (dict[str, int]): Unit name -> classes of zeros beyond the original ones.
        """
        self.surgery.cut(masks, optimizers, padding)

    def layout(self, tensor: str) -> Dict[int, np.ndarray]:
        """Return axis -> sorted keys of its present indices; see :meth:`Surgery.layout`."""
        return self.surgery.layout(tensor)

    # checkpoints: the kept vectors travel with the weights

    def _save_to_state_dict(self, destination: Dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, vector in self.kept.items():
            destination[f'{prefix}{KEPT}{name}'] = torch.from_numpy(vector)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        unexpected = args[3] if len(args) > 3 else []
        for key in [key for key in unexpected if key.startswith(prefix + KEPT)]:
            unexpected.remove(key)

    def masks_from(self, state_dict: Mapping[str, Any], prefix: str,
                   source: str = 'the structure of the checkpoint') -> Optional[Dict[str, np.ndarray]]:
        """Read the kept vectors of a checkpoint.

        Args:
            state_dict (dict): A state dict of an algorithm.
            prefix (str): Where the mutator's keys start.
            source (str): Where it comes from, for the error message.

        Returns:
            dict or None: Unit name -> which classes are kept; None where the state dict holds no structure.
        """
        start = prefix + KEPT
        vectors = {key[len(start):]: value for key, value in state_dict.items() if key.startswith(start)}
        if not vectors:
            return None
        check_structure({name: int(vector.sum()) for name, vector in vectors.items()}, self.units, source)
        return {unit.name: unit.mask_of(vectors[unit.name].cpu().numpy()) for unit in self.units}


class PrunedClass(NamedTuple):
    """What one prune event removed."""

    unit: str
    channel: int
    score: float


@MODELS.register_module()
class GroupFisherChannelMutator(ChannelMutator):
    """Records group Fisher information of all units and prunes the least class.

    Args:
        channel_unit_cfg (dict): Defaults to ``dict(type='GroupFisherChannelUnit')``.
        demo_input (dict): How to run the model once; see :mod:`mmprune.demo_input`.
        include, exclude, min_channels, trial_cut: See :class:`ChannelMutator`.

    Attributes:
        fisher (Tensor[total classes]): One accumulator for all units, so that one all_reduce serves an event.
    """

    fisher: Tensor

    def __init__(self, channel_unit_cfg: Optional[dict] = None, demo_input: Optional[dict] = None,
                 include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                 min_channels: Union[int, Mapping[str, int]] = 1, trial_cut: bool = True) -> None:
        super().__init__(channel_unit_cfg or dict(type='GroupFisherChannelUnit'), demo_input, include, exclude,
                         min_channels, trial_cut)

    def prepare(self, model: nn.Module, proven: Collection[str] = ()) -> None:
        """Trace the dense model, build its units and tap the inputs of their consumers."""
        super().prepare(model, proven)
        bounds = np.cumsum([0] + [len(unit.kept) for unit in self.units])
        self._start = dict(zip((unit.name for unit in self.units), bounds[:-1].tolist()))
        self.register_buffer('fisher', _empty_accumulator(model, int(bounds[-1])))
        self._tapped: Dict[str, Any] = {}
        for unit in self.units:
            for member in unit.channels.consumers:
                layer = member.axis.layer
                self._tapped[layer] = self.model.get_submodule(layer)
        for inner in [name for item in self._tapped.items() for name in ops.recorded_with(*item)]:
            self._tapped.pop(inner, None)
        for module in self._tapped.values():
            ops.add_tap(module)
        calls = self.complexity.graph.calls
        self._samples = {layer: tuple(sorted({call.samples for call in calls if call.layer == layer}))
                         for layer in self._tapped}
        self._columns_changed()

    def _reason_to_freeze(self, channels: CoupledChannels, graph: ChannelGraph) -> Optional[str]:
        for member in channels.consumers:
            module = self.model.get_submodule(member.axis.layer)
            calls = [call for call in graph.calls if call.weight == member.axis.tensor]
            if not ops.is_tappable(module) or not all(call.by_module for call in calls):
                return f'{member.axis.tensor!r} is used outside a conv or linear module, where no score can be recorded'
        return None

    def record(self, recording: bool) -> None:
        """Switch the taps on or off; what was recorded and not taken is dropped."""
        for module in self._tapped.values():
            module.recording = recording
            module.stats.clear()

    def take_recorded(self) -> List[Tuple[str, Tensor]]:
        """Return (layer, ``Tensor[N, C]``) for every tapped call that took part in the backward pass."""
        return [(layer, stat.grad) for layer, module in self._tapped.items() for stat in module.stats
                if stat.grad is not None]  # a recomputed or unused branch has none

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if dist.get_rank() != 0:  # rank 0 saved what it had accumulated itself; the ranks are summed
            self.fisher.zero_()

    def remove_taps(self) -> None:
        """Give every layer its plain class back."""
        for module in self._tapped.values():
            ops.remove_tap(module)
        self._tapped = {}

    def _columns_changed(self) -> None:
        """Work out again which class each input channel of each tapped layer belongs to."""
        total = len(self.fisher)
        self._columns: Dict[str, Tensor] = {}
        for layer, module in self._tapped.items():
            weight = f'{layer}.weight' if layer else 'weight'
            member = next(m for _, m in self.surgery.members[weight] if m.axis.role in ('in', 'depthwise'))
            axis = member.axis
            owner = np.full(len(axis.ids), total)
            for unit, member in self.surgery.members[weight]:
                if member.axis is axis:
                    classes = np.arange(len(member.index)) + self._start[unit.name]
                    owner[member.index] = classes[:, None]
            owner = owner[self.layout(weight)[axis.dim].astype(int)]
            groups = getattr(module, 'groups', 1)
            if axis.role == 'depthwise':
                owner = owner[::len(owner) // groups]
            elif getattr(module, 'in_channels', len(owner)) != len(owner):
                owner = np.tile(owner, groups)
            self._columns[layer] = torch.from_numpy(owner)
        self._scatter: Dict[Tuple[Any, ...], Tensor] = {}

    def cut(self, masks: Mapping[str, np.ndarray], optimizers: Iterable[torch.optim.Optimizer] = (),
            padding: Optional[Mapping[str, int]] = None) -> None:
        """Make the model really have the given classes; see :meth:`ChannelMutator.cut`."""
        super().cut(masks, optimizers, padding)
        self._columns_changed()

    @torch.no_grad()
    def accumulate(self, recorded: Sequence[Tuple[str, Tensor]], loss_scale: Any = 1.0,
                   drop_overflow: bool = False) -> None:
        """Add what the taps recorded in one iteration: ``sum_b (sum_l g_l[b])^2`` for every class.

        Layers that saw another batch (heads on regions) are squared in their own. A batch is known by its size, in this
        iteration and when the model was traced: two regions of two images are not their two images.

        Args:
            recorded (list[tuple[str, Tensor[N, C]]]): From :meth:`take_recorded`.
            loss_scale (float or Tensor): The loss was multiplied by this before the backward pass.
            drop_overflow (bool): Leave the iteration out if anything is not finite, as a gradient scaler does.
        """
        batches: Dict[Any, Tuple[List[str], List[Tensor]]] = {}
        for layer, grad in recorded:
            layers, grads = batches.setdefault((self._samples[layer], len(grad)), ([], []))
            layers.append(layer)
            grads.append(grad)
        total = torch.zeros_like(self.fisher)
        for layers, grads in batches.values():
            index = self._scatter_index(tuple(layers))
            joined = torch.cat(grads, 1).to(self.fisher.dtype)
            per_class = joined.new_zeros(len(joined), len(self.fisher) + 1).index_add_(1, index, joined)
            total += per_class[:, :-1].div_(loss_scale).square_().sum(0)
        if drop_overflow:
            total = torch.where(torch.isfinite(total).all(), total, torch.zeros_like(total))
        self.fisher += total

    def _scatter_index(self, layers: Tuple[str, ...]) -> Tensor:
        if layers not in self._scatter:
            self._scatter[layers] = torch.cat([self._columns[layer] for layer in layers]).to(self.fisher.device)
        return self._scatter[layers]

    def scores(self) -> Dict[str, Tensor]:
        """Return unit name -> ``Tensor[classes]`` of the units above their floor; dropped ones inf."""
        widths, scores = self.widths, {}
        for unit in self.units:
            start = self._start[unit.name]
            unit.fisher = self.fisher[start:start + len(unit.kept)]
            if unit.num_classes > unit.min_classes:
                alive = torch.from_numpy(unit.kept).to(self.fisher.device)
                score = unit.score(self.complexity, widths)
                scores[unit.name] = torch.where(alive, score, torch.full_like(score, float('inf')))
        return scores

    def least(self) -> Optional[PrunedClass]:
        """Return the class with the least score over all units, or None where nothing may go.

        Raises:
            NotFiniteError: A score is NaN, or all are infinite; the message names the unit.
        """
        scores = self.scores()
        if not scores:
            return None
        names = list(scores)
        if not bool((self.fisher != 0).any()):
            raise NotFiniteError('nothing finite was recorded since the last prune event')
        flat = torch.cat(list(scores.values())).cpu()
        position = int(flat.argmin())  # of a NaN, if there is one
        score = float(flat[position])
        if not math.isfinite(score):  # dropped classes are inf: the least of infinite scores may be one of them
            bad = [name for name, values in scores.items() if bool(values.isnan().any()) or math.isinf(score)]
            more = f' and {len(bad) - 1} more' if len(bad) > 1 else ''
            raise NotFiniteError(f'the score of unit {bad[0]!r}{more} is {"NaN" if score != score else "infinite"}')
        for name in names:
            if position < len(scores[name]):
                return PrunedClass(name, position, score)
            position -= len(scores[name])
        raise AssertionError('argmin lies outside the scores')

    def drop(self, pruned: PrunedClass, optimizers: Iterable[torch.optim.Optimizer] = ()) -> None:
        """Cut one class out of the model and its optimizers."""
        mask = by_name(self.units)[pruned.unit].kept.copy()
        mask[pruned.channel] = False
        self.cut({pruned.unit: mask}, optimizers)


class NotFiniteError(RuntimeError):
    """Scores are not finite."""


def _empty_accumulator(model: nn.Module, size: int) -> Tensor:
    """Zeros on the model's device; in float64 for a float64 model, else in float32."""
    parameter = next(model.parameters())
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    return torch.zeros(size, dtype=dtype, device=parameter.device)
