"""ThiNet: the channels that the next layer needs least. Luo et al., ICCV 2017 (equations 6 and 7, algorithm 1)."""
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import whole_number
from ..graph.channels import Member
from ..graph.factors import DIMENSIONS
from ..registry import CRITERIA
from ..repair.moments import Inverse
from ..repair.windows import channels_first
from ..units.consumers import Consumers
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .contributions import WINDOWED, LayerGram, Samples, add_by_gradients, add_by_windows, running_class
from .criterion import Criterion, CriterionError
from .inputs import reading, reads_seen


@CRITERIA.register_module()
class ThiNet(Criterion):
    """A channel's place in the order in which greedy search removes the channels of a unit.

    An output of a layer that reads the unit is ``y = sum_c x_c``, without its bias, where ``x_c`` is what the inputs of
    set ``c`` contribute. Over sampled outputs ``i``, algorithm 1 starts with no removed set, ``T = {}``, and in each
    step removes the set that leaves ``sum_i (sum_{j in T} x_ij)^2`` (equation 6) least. The score is the place in this
    order over the number of sets: from ``1/C``, removed first, to 1. :meth:`adjust` then rescales the weights that stay
    by equation 7. docs/criteria.md has the details.

    Args:
        positions (int): Output locations sampled in each image and call of a layer; the paper's 10.
        outputs (int): Random output channels sampled at each location. The paper takes 1, of 10,000 images; the least
            squares of equation 7 need more samples than a layer has channels.
        seed (int): Seed of the sampling, which has a generator of its own.

    Attributes:
        grams (dict[str, LayerGram]): Layer -> products of what its inputs contribute.
    """

    needs_data = True
    lacking = ('no layer that reads it and adds up its channels ran on the data; leave the unit out (exclude) or take '
               'a criterion of weights')

    def __init__(self, positions: int = 10, outputs: int = 10, seed: int = 0) -> None:
        super().__init__()
        self.positions, self.outputs = whole_number('positions', positions), whole_number('outputs', outputs)
        self.seed = whole_number('seed', seed, 0)

    def observe(self, calibration: Calibration) -> None:
        """Sample outputs of all layers that read units."""
        self._consumers = Consumers(self.mutator)
        #: layer -> products of what it reads; with :data:`DIMENSIONS` of those of heads, which lie across others
        self.grams: Dict[Any, LayerGram] = {}
        self._samples, self._replaying = Samples(self.positions, self.outputs, self.seed), False
        with reads_seen(self.mutator, self._see):
            for batch in calibration.batches:
                calibration.loss(batch)
        for layer, gram in self.grams.items():
            if not bool(gram.matrix.isfinite().all()):
                raise CriterionError(f'ThiNet cannot use layer {layer!r}: its inputs or weights are not finite')

    def _see(self, layer: str, module: nn.Module, x: Tensor, args: Sequence[Any], kwargs: Dict[str, Any]) -> None:
        if self._replaying:  # this layer is inside a layer whose outputs are sampled by gradients
            return
        if layer not in self.grams:
            self.grams[layer] = LayerGram(self._consumers.owners(layer), x.device)
            if self._consumers.reads_dimensions(layer):
                self.grams[layer, DIMENSIONS] = LayerGram(self._consumers.owners(layer, DIMENSIONS), x.device)
        kind = running_class(module)
        grams = [self.grams[key] for key in (layer, (layer, DIMENSIONS)) if key in self.grams]

        def add(contributions: Tensor) -> None:
            for gram in grams:
                gram.add(contributions)

        if kind in WINDOWED:
            add_by_windows(module, channels_first(module, x), self._samples, add)
            return
        self._replaying = True
        try:
            add_by_gradients(module, x, lambda leaf: kind.forward(module, leaf, *args, **kwargs), self._samples, add)
        finally:
            self._replaying = False

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return a single tensor for all layers that read the unit: places in the removal order over the sets."""
        start = self._consumers.start[unit.name]
        numbers: np.ndarray = start + np.flatnonzero(unit.kept)
        layers = dict.fromkeys(member.axis.layer for member in reading(unit))
        keys = [(layer, DIMENSIONS) if unit.channels.part in DIMENSIONS else layer for layer in layers]
        parts = [self.grams[key].relative(numbers) for key in keys if key in self.grams]
        if not parts:
            return []
        scores = torch.empty(len(numbers), dtype=torch.float64)
        scores[removal_order(torch.stack(parts).sum(0))] = torch.arange(1.0, len(numbers) + 1).double() / len(numbers)
        return [scores]

    def adjust(self, masks: Dict[str, np.ndarray]) -> None:
        """Multiply the weights of sets that stay by :func:`rescaling`, in all layers that read sets to be removed.

        This invalidates the calibration.

        Args:
            masks (dict[str, ndarray[sets], bool]): Unit name -> which sets will stay.

        Raises:
            CriterionError: The criterion has seen no data since the weights were last adjusted or cut.
        """
        units = [unit for unit in self.mutator.units if (unit.kept & ~masks.get(unit.name, unit.kept)).any()]
        if not units:
            return
        if not self.is_calibrated:
            raise CriterionError('ThiNet adjusts weights by data, and has seen none since it last did or the model was '
                                 'cut: call calibrate first')
        self.mutator.surgery.bake(self.mutator.surgery.dropped(masks))  # what is rescaled must be what is used
        readers: Dict[str, List[Tuple[ChannelUnit, Member]]] = {}
        for unit in units:
            for member in reading(unit):
                if unit.channels.part not in DIMENSIONS:
                    readers.setdefault(member.axis.layer, []).append((unit, member))
        for layer, members in readers.items():
            if layer in self.grams:
                self._rescale(self.grams[layer], members, masks)
        self._structure = None

    def _rescale(self, gram: LayerGram, members: Sequence[Tuple[ChannelUnit, Member]],
                 masks: Dict[str, np.ndarray]) -> None:
        staying = [unit.kept & masks[unit.name] for unit, _ in members]
        dropped = [unit.kept & ~masks[unit.name] for unit, _ in members]

        def places(sets: Sequence[np.ndarray]) -> Tensor:
            return gram.places(np.concatenate([self._consumers.start[unit.name] + np.flatnonzero(some)
                                               for (unit, _), some in zip(members, sets)]))

        weights = rescaling(gram.matrix, places(staying), places(dropped))
        for (unit, member), some, factors in zip(members, staying, weights.split([int(s.sum()) for s in staying])):
            tensor = self.tensor(member)
            index = self.mutator.positions(unit, member)[torch.from_numpy(some[unit.kept])].to(tensor.device)
            columns = tensor.movedim(member.axis.dim, -1)
            columns[..., index.reshape(-1)] *= factors.to(tensor).repeat_interleave(index.size(1))


def removal_order(gram: Tensor) -> Tensor:
    """Return ``LongTensor[C]``, the channels in the order in which algorithm 1 removes them; of equals the first.

    Args:
        gram (Tensor[C, C]): ``X^T X`` of the contributions ``X[samples, C]``.
    """
    products = gram.double().cpu().numpy()
    increase = products.diagonal().copy()
    order: List[int] = []
    while len(order) < len(products):
        order.append(int(increase.argmin()))
        increase += 2 * products[order[-1]]
        increase[order[-1]] = np.inf
    return torch.tensor(order)


def rescaling(gram: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    """Return ``Tensor[K]``, factors by which kept channels best reproduce the sum with dropped channels (equation 7).

    ``w = argmin sum_i (sum_{c kept or dropped} x_ic - sum_{c kept} w_c x_ic)^2``; of several solutions that with the
    least ``sum_i (w_c - 1)^2 x_ic^2``, so that a channel that was never active keeps its weights.

    Args:
        gram (Tensor[G, G]): ``X^T X`` of the contributions ``X[samples, G]``.
        kept (LongTensor[K]): Channels that stay.
        dropped (LongTensor[D]): Channels that will be removed.
    """
    rows = gram[kept]
    return 1 + Inverse(rows[:, kept][None], 0.0).after(rows[:, dropped].sum(1)[None, None])[0, 0]
