"""What removing a channel costs after the layers that read it are solved again; Hassibi and Stork, NeurIPS 1992."""
from typing import List, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import whole_number
from ..graph.channels import Member
from ..registry import CRITERIA
from ..repair.moments import Inverse, Sums
from ..units.unit import ChannelUnit
from .backward_elimination import Reader, backward_elimination
from .calibration import Calibration
from .criterion import ADVICE, Criterion, CriterionError
from .inputs import reading
from .read_moments import read_moments

#: Added to the variance of each input, as a share of it: the weakest ridge that a repair takes.
RIDGE = 1e-4


class Covariance(NamedTuple):
    """Of what a layer reads."""

    inverse: Tensor  #: ``Tensor[G, K, K]``, float64
    variance: float  #: of the layer's outputs, summed over them


@CRITERIA.register_module()
class LeastSquaresError(Criterion):
    """The squared error that is left in the layers which read a unit, after these are solved again without a channel.

    Backward elimination in each unit: the set of channels goes whose removal lets the error rise least, the best
    weights of the others take over, and so on. The score of a set is the error right after its removal, relative to
    the variance of the layer's outputs and added up over the layers that read the unit. It rises with the order, and
    the same score means as large an error in any unit. See :class:`~.backward_elimination.Reader` for the prices;
    docs/criteria.md has the details.

    Memory: 8 bytes for each pair of inputs of each layer, a channel of a k x k convolution being ``k^2`` inputs. Time:
    that of a forward of the data, the covariances, and about the cube of the inputs of each layer.

    Args:
        positions (int): Output locations sampled in each image and layer at most.
        seed (int): Seed of the sampling, which has a generator of its own.
    """

    needs_data = True

    def __init__(self, positions: int = 200, seed: int = 0) -> None:
        super().__init__()
        self.positions, self.seed = whole_number('positions', positions), whole_number('seed', seed, 0)

    def observe(self, calibration: Calibration) -> None:
        """Take the covariances of what all layers read that read units, and invert them."""
        read = read_moments(self.mutator, calibration, self.positions, self.seed)
        self._refused = read.refused
        members = {member.axis.layer: member for unit in self.mutator.units for member in reading(unit)}
        self.covariances = {layer: self._covariance(layer, read.sums.pop(layer), self._weight(members[layer]))
                            for layer in list(read.sums) if layer not in self._refused}

    def _weight(self, member: Member) -> Tensor:
        """Return the weight ``Tensor[G, O, K]`` of a layer, float64."""
        weight = self.tensor(member).double()
        return weight.reshape(member.axis.groups, -1, weight[0].numel())

    def _covariance(self, layer: str, sums: Sums, weight: Tensor) -> Covariance:
        xx = sums.moments().xx
        if not bool(xx.isfinite().all() & weight.isfinite().all()):
            raise CriterionError(f'LeastSquaresError cannot use layer {layer!r}: its inputs or weights are not finite')
        variance = float(((weight @ xx) * weight).sum())
        return Covariance(Inverse(xx, RIDGE).matrix().cpu(), max(variance, float(np.finfo(float).tiny)))

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return a single tensor for all layers that read the unit: the error after the removal of each set."""
        members = [member for member in reading(unit) if member.axis.layer in self.covariances]
        if not members or self._refusing(unit):
            return []
        order, errors = backward_elimination([self._reader(unit, member) for member in members], unit.num_sets)
        scores = torch.empty_like(errors)
        scores[order] = errors
        return [scores]

    def _reader(self, unit: ChannelUnit, member: Member) -> Reader:
        weight, found = self._weight(member).cpu(), self.covariances[member.axis.layer]
        kernel = self.tensor(member)[0, 0].numel()
        inputs = self.mutator.positions(unit, member)[:, :, None] * kernel + torch.arange(kernel)
        return Reader(found.inverse, weight, inputs.flatten(1), found.variance)

    def _refusing(self, unit: ChannelUnit) -> List[str]:
        return [f'layer {member.axis.layer!r} {self._refused[member.axis.layer]}' for member in reading(unit)
                if member.axis.layer in self._refused]

    def missing(self, unit: ChannelUnit) -> str:
        """Return why the errors of the layers that read the unit are not known."""
        refusing = self._refusing(unit)
        return f'{refusing[0] if refusing else "no layer that reads it and adds up its channels ran on the data"}; ' \
               f'{ADVICE}'
