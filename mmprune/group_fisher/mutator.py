"""The mutator of group Fisher pruning: records scores while the model trains, and says which channels go next."""
from typing import Any, Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, nn

from ..graph.channels import ChannelGraph, CoupledChannels
from ..latency.table import LatencyTable
from ..registry import MODELS
from ..units.choice import Floor, Patterns
from ..units.complexity import LATENCY
from ..units.consumers import Consumers
from ..units.mutator import ChannelMutator
from ..units.ranks import by_element, rank
from ..units.selection import NotFiniteError, Pool, PrunedSet, least_important
from ..units.unit import by_name
from .taps import TapRecorder, untapped_weight
from .unit import GroupFisherChannelUnit

#: What a set costs at least, where the table says that its unit makes nothing faster: it goes last.
LEAST_MILLISECONDS = 1e-9


@MODELS.register_module()
class GroupFisherChannelMutator(ChannelMutator):
    """Records group Fisher information of all units and prunes the least set.

    Args:
        channel_unit_cfg (dict): Defaults to ``dict(type='GroupFisherChannelUnit')``.
        demo_input (dict): How to run the model once; see :mod:`mmprune.graph.demo_input`.
        include, exclude, min_channels, trial_cut, attention, stream: See
            :class:`~mmprune.units.mutator.ChannelMutator`.

    Attributes:
        fisher (Tensor[total sets]): One accumulator for all units, so that one all_reduce serves an event.
        table (LatencyTable or None): Of the model, where scores are divided by time.
    """

    fisher: Tensor
    table: Optional[LatencyTable] = None

    def __init__(self, channel_unit_cfg: Optional[dict] = None, demo_input: Union[None, dict, Sequence[dict]] = None,
                 include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                 min_channels: Union[Floor, Mapping[str, Floor]] = 1, trial_cut: bool = True, attention: bool = True,
                 stream: str = 'exact') -> None:
        super().__init__(channel_unit_cfg or dict(type='GroupFisherChannelUnit'), demo_input, include, exclude,
                         min_channels, trial_cut, attention, stream)

    def prepare(self, model: nn.Module, proven: Collection[str] = ()) -> None:
        """Trace the dense model, build its units and tap the inputs of their consumers."""
        super().prepare(model, proven)
        self._tap()

    def _tap(self) -> None:
        """Record what the consumers of the units read."""
        consumers = Consumers(self)
        self._start, self._count = consumers.start, consumers.count
        self.register_buffer('fisher', _empty_accumulator(self.model, consumers.total))
        self.taps = TapRecorder(consumers)
        self._unrecorded: Set[str] = set()

    def _reason_to_freeze(self, channels: CoupledChannels, graph: ChannelGraph) -> Optional[str]:
        weight = untapped_weight(self.model, channels, graph.calls)
        return weight and (f'{weight!r} is used outside the conv or linear module that owns it, where no score can be '
                           'recorded')

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if dist.get_rank() != 0:  # rank 0 saved what it had accumulated itself; the ranks are summed
            self.fisher.zero_()

    def release(self) -> None:
        """Give every layer its plain class back."""
        self.taps.remove()

    def leave_whole(self, reasons: Mapping[str, str]) -> None:
        """Prune units no more, and record nothing of them."""
        super().leave_whole(reasons)
        if reasons:
            self.taps.remove()
            self._tap()

    def rank_state(self) -> Dict[str, Tensor]:
        """Return this process's accumulator; the ranks are summed only when channels go."""
        return dict(fisher=self.fisher.detach().cpu().clone())

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`rank_state` of this process was."""
        self.fisher.copy_(state['fisher'])

    def cut(self, masks: Mapping[str, np.ndarray], optimizers: Iterable[torch.optim.Optimizer] = (),
            padding: Optional[Mapping[str, int]] = None) -> None:
        """Make the model really have the given sets, and let the taps follow."""
        with self.taps.lifted(set(self.surgery.standardised.values())):  # they may become torch's own layers
            super().cut(masks, optimizers, padding)
        self.taps.refresh()

    @torch.no_grad()
    def accumulate(self, recorded: Sequence[Tuple[str, Tensor]], loss_scale: Any = 1.0,
                   drop_overflow: bool = False) -> None:
        """Add what the taps recorded in one iteration: ``sum_b (sum_l g_l[b])^2`` for every set.

        Args:
            recorded (list[tuple[str, Tensor[N, C]]]): From :meth:`TapRecorder.take`.
            loss_scale (float or Tensor): The loss was multiplied by this before the backward pass.
            drop_overflow (bool): Leave the iteration out if anything is not finite, as a gradient scaler does.
        """
        total = torch.zeros_like(self.fisher)
        for per_set in self.taps.per_set(recorded, self.fisher.dtype):
            total += per_set.div_(loss_scale).square_().sum(0)
        if drop_overflow:
            total = torch.where(torch.isfinite(total).all(), total, torch.zeros_like(total))
        self.fisher += total

    def scores(self) -> Dict[str, Tensor]:
        """Return unit name -> ``Tensor[sets]`` of the units above their floor; removed sets have inf."""
        widths, sets, scores = self.widths, self.sets, {}
        for unit in self.units:
            if unit.normalization_type == LATENCY:
                unit.milliseconds = self.milliseconds_of(unit, sets)
            start, count = self._start[unit.name], self._count[unit.name]
            unit.fisher = self.fisher[start:start + count]
            if count != len(unit.kept):
                unit.fisher = self._by_rank(unit, unit.fisher)
            if unit.num_sets > unit.min_sets:
                present = torch.from_numpy(unit.kept).to(self.fisher.device)
                scores[unit.name] = unit.score(self.complexity, widths).masked_fill(~present, float('inf'))
        return scores

    def _by_rank(self, unit: GroupFisherChannelUnit, recorded: Tensor) -> Tensor:
        """Order the dimensions of each head by what was recorded of them; return their sums by rank."""
        kept = torch.from_numpy(by_element(unit).kept).to(recorded.device)
        found = recorded.new_zeros(len(unit.kept))
        found[torch.from_numpy(unit.kept).to(recorded.device)] = rank(unit, recorded[kept])
        return found

    @property
    def divides_by_time(self) -> bool:
        """Whether scores are divided by milliseconds."""
        return self.channel_unit_cfg.get('normalization_type') == LATENCY

    def milliseconds_of(self, unit: GroupFisherChannelUnit, present: Mapping[str, int]) -> float:
        """Return by how much one set of the block that would go next of a unit makes the model faster.

        Args:
            unit (GroupFisherChannelUnit): The unit.
            present (dict[str, int]): Unit name -> present sets, of all units.
        """
        assert self.table is not None  # the run checks that
        block = unit.sets_in(self.table.block)
        sets = min(unit.num_sets % block or block, unit.num_sets - unit.min_sets)
        return max(self.table.saving(unit.name, present, max(1, sets)) / max(1, sets), LEAST_MILLISECONDS)

    def least_important(self, count: int = 1, align: int = 1) -> List[PrunedSet]:
        """Return the sets with the least scores over all units, none where nothing may go.

        Units of which nothing was recorded are left out: what is not seen is not unimportant.

        Args:
            count (int): How many sets, at least.
            align (int): Take blocks, so that the channels of a unit become or stay a multiple of this.

        Raises:
            NotFiniteError: A score is NaN, or all are infinite; the message names the unit.
        """
        scores = self.scores()
        if not scores:
            return []
        if not bool((self.fisher != 0).any()):
            raise NotFiniteError('nothing finite was recorded since the last prune event')
        flat = torch.cat(list(scores.values())).cpu().double().numpy()  # one transfer for all units
        bounds = np.cumsum([0] + [len(values) for values in scores.values()])
        units = by_name(self.units)
        pools = [Pool(unit.name, flat[start:end], unit.num_sets - unit.min_sets, unit.num_sets,
                      unit.sets_in(align))
                 for unit, start, end in zip((units[name] for name in scores), bounds, bounds[1:])]
        unrecorded = {pool.unit for pool in pools if not pool.scores[units[pool.unit].kept].any()}
        self._warn_of_unrecorded(unrecorded)
        return least_important([pool for pool in pools if pool.unit not in unrecorded], count)

    def _warn_of_unrecorded(self, names: Set[str]) -> None:
        """Warn about each unit once."""
        new = sorted(names - self._unrecorded)
        if new:
            more = f' and {len(new) - 1} more' if len(new) > 1 else ''
            print_log(f'no gradient arrived where layers read unit {new[0]!r}{more} since the last prune event (a '
                      'branch that did not run, torch.no_grad, detach), or it was zero: nothing goes of it',
                      logger='current', level=30)
            self._unrecorded.update(new)

    def masks_without(self, pruned: Sequence[PrunedSet]) -> Dict[str, np.ndarray]:
        """Return unit name -> which sets stay when some are removed, of the units that lose any."""
        units = by_name(self.units)
        masks = {lost.unit: units[lost.unit].kept.copy() for lost in pruned}
        for lost in pruned:
            masks[lost.unit][lost.channel] = False
        return masks


def _empty_accumulator(model: nn.Module, size: int) -> Tensor:
    """Zeros on the model's device; in float64 for a float64 model, else in float32."""
    parameter = next(model.parameters())
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    return torch.zeros(size, dtype=dtype, device=parameter.device)
