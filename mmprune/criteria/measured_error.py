"""What the outputs of a network lose where a unit is masked, and the layers that read it are solved again."""
import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from ..arguments import UserError, one_of, share, short, whole_number
from ..group_fisher.unit import channel_cost
from ..registry import CRITERIA
from ..repair.batches import HELD_BACK, rows_of
from ..repair.moments import Moments
from ..repair.sampling import spread
from ..units.complexity import NORMALIZATION_TYPES
from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .criterion import Criterion, CriterionError, UnscorableError, make_criterion
from .output_change import OutputChange
from .prices import prices
from .read_moments import read_moments
from .solved_without import solved_without

#: Shares of a unit's present sets without which it is tried.
LEVELS = (1 / 8, 3 / 8)
#: By how many images layers are solved at most.
SOLVED_BY = 160


@CRITERIA.register_module()
class MeasuredError(Criterion):
    """By how much the error of the outputs rises where a unit loses channels and what reads them makes up for it.

    Each unit is cut at a few levels, alone, in the order of another criterion. The layers that read it are solved again
    by least squares, and the model is run on images that they were not solved by. What is measured is the squared
    difference of its outputs to those before, over their spread; of a model that returns losses alone, by which share
    their sum rises. The price of a set is what the next one costs there, over its multiply-adds. So widths follow from
    what the whole network loses, and not from a sum over channels each of which goes alone; NetAdapt (Yang et al., ECCV
    2018) tries each layer too, with a short training in place of the least squares.

    What layers far behind will make up for is not seen, and units count as if each were cut alone. The scores of the
    other criterion err in other ways, so that a score is the geometric mean of both, if those compare units.

    Time: that of the order, and a forward of ``images`` for each unit and level, from the first module on that has
    changed where the model is a chain of modules. Memory: that of
    :class:`~.least_squares_error.LeastSquaresError`, and up to 1 GB of what the modules return.

    Args:
        order (str, dict or Criterion): Which channels of a unit go first; see :func:`~.criterion.build_criterion`.
        images (int): By how many images a trial is judged at most; by fewer where their outputs take more than 0.5 GB.
            A fifth of the batches is held back for them; the layers are solved by 160 images of the others at most.
        levels (sequence[float]): Shares of a unit's present sets without which it is tried, ascending.
        weight (float, optional): Share of the measured price in the geometric mean; 1 takes it alone, which is the
            default where the order compares the channels of a layer only (its ``scope``), else 0.5.
        normalization_type (str): What a price is divided by; see :class:`~.group_fisher.GroupFisher`.
        positions (int): Output locations sampled in each image and layer at most.
        seed (int): Seed of the sampling.
    """

    scope = 'global'
    needs_data = True

    def __init__(self, order: Union[str, Mapping[str, Any], Criterion] = 'GroupFisher', images: int = 40,
                 levels: Sequence[float] = LEVELS, weight: Optional[float] = None, normalization_type: str = 'flops',
                 positions: int = 200, seed: int = 0) -> None:
        super().__init__()
        self.order, self.images = make_criterion(order), whole_number('images', images)
        self.levels = tuple(share('levels', level, 'they are shares, above 0 and less than 1') for level in levels)
        if not self.levels or list(self.levels) != sorted({*self.levels}):
            raise UserError(f'levels is {short(levels)}; it must be one rising share or several, such as {LEVELS}')
        both = 0.5 if self.order.scope == 'global' else 1.0
        self.weight = both if weight is None else share('weight', weight, 'it is the share of the measured price in a '
                                                        'mean, above 0 and at most 1', one=True)
        self.normalization_type = one_of('normalization_type', normalization_type, dict.fromkeys(NORMALIZATION_TYPES))
        self.positions, self.seed = whole_number('positions', positions), whole_number('seed', seed, 0)
        self.needs_loss = self.order.needs_loss

    def bind(self, mutator: ChannelMutator) -> None:
        """Say whose units are scored."""
        super().bind(mutator)
        self.order.bind(mutator)

    def observe(self, calibration: Calibration) -> None:
        """Try each unit at each level."""
        self.order.calibrate(calibration)
        solving, judging = parted(calibration.batches, self.images)
        moments = self._moments(Calibration(solving, calibration.loss))
        judge = OutputChange(self.mutator, Calibration(judging, calibration.loss))
        self.points: Dict[str, List[Tuple[int, float]]] = {}
        for unit in self.mutator.units:
            try:
                order = self._order(unit)
            except UnscorableError:
                continue
            counts = sorted({math.ceil(level * unit.num_sets) for level in self.levels} - {unit.num_sets})
            points = []
            for count in counts:
                mask = unit.kept.copy()
                mask[np.flatnonzero(mask)[order[:count]]] = False
                with solved_without(self.mutator, {unit.name: mask}, moments) as changed:
                    points.append((count, judge.error(changed)))
            self.points[unit.name] = points

    def _order(self, unit: ChannelUnit) -> np.ndarray:
        return self.order.score(unit).argsort(stable=True).cpu().numpy()

    def _moments(self, calibration: Calibration) -> Dict[str, Moments]:
        read = read_moments(self.mutator, calibration, self.positions, self.seed)
        found = {layer: sums.moments() for layer, sums in read.sums.items() if layer not in read.refused}
        for layer, moments in found.items():
            if not bool(moments.xx.isfinite().all()):
                raise CriterionError(f'MeasuredError cannot use layer {layer!r}: its inputs are not finite')
        return found

    def score(self, unit: ChannelUnit) -> Tensor:
        """Return ``Tensor[C]``, what each set costs in the order of the other criterion."""
        self.check_calibrated()
        scores = self.order.score(unit)  # of dimensions of heads it makes ranks
        points = self.points[unit.name]
        if not points:
            raise UnscorableError(f'MeasuredError cannot score unit {unit.name!r}: it has a single set of channels')
        found = torch.empty(unit.num_sets, dtype=torch.float64)
        found[scores.argsort(stable=True).cpu()] = torch.from_numpy(prices(points, unit.num_sets))
        found /= channel_cost(unit.channels, self.normalization_type, self.mutator.complexity, self.mutator.widths)
        return found if self.weight == 1 else found ** self.weight * scores.double().cpu().clamp_min(0) ** (
            1 - self.weight)

    def adjust(self, masks: Mapping[str, np.ndarray]) -> None:
        """Let the weights that stay make up for those that go, as the other criterion does it."""
        self.order.adjust(dict(masks))


def parted(batches: Sequence[Any], images: int) -> Tuple[List[Any], List[Any]]:
    """Return batches to solve layers by, and others to judge trials by; of a single batch both are the same.

    Args:
        batches (sequence): All batches.
        images (int): How many to judge by at most, in whole batches.
    """
    held = [batch for number, batch in enumerate(batches) if number % HELD_BACK == HELD_BACK - 1] or [batches[-1]]
    others = [batch for number, batch in enumerate(batches) if number % HELD_BACK != HELD_BACK - 1]
    others = others[:-1] if len(others) > 1 and held[0] is others[-1] else others or held
    return _some(others, SOLVED_BY), _some(held, images)


def _some(batches: Sequence[Any], images: int) -> List[Any]:
    rows = sum(map(rows_of, batches))
    return [batches[number] for number in spread([*range(len(batches))], min(1.0, images / max(1, rows)))]
