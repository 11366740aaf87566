"""Filters near the geometric median: He et al., Filter Pruning via Geometric Median, CVPR 2019 (equations 4 to 8)."""
from typing import List

import torch
from torch import Tensor

from ..arguments import one_of, share
from ..registry import CRITERIA
from ..units.unit import ChannelUnit
from .criterion import Criterion

DISTANCES = ('euclidean', 'cosine')


@CRITERIA.register_module()
class FPGM(Criterion):
    """``s_c = sum_j d(F_c, F_j)``: a filter that is close to the others can be replaced by them.

    Args:
        distance (str): ``euclidean``, or ``cosine`` for ``1 - cos``.
        rate_norm (float): Share of the filters whose distances are compared; the rest, those with the least Euclidean
            norms, are removed before them. 1 in most of the paper's experiments.
        combine, normalize (str): See :class:`Criterion`.
    """

    def __init__(self, distance: str = 'euclidean', rate_norm: float = 1.0, combine: str = 'mean',
                 normalize: str = 'none') -> None:
        super().__init__(combine, normalize)
        self.rate_norm = share('rate_norm', rate_norm, 'it is a share of the filters, more than 0 and at most 1',
                               one=True)
        self.distance = one_of('distance', distance, DISTANCES)

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the summed distances in each layer that produces the unit."""
        return [self._scores(self.slices(unit, member)) for member in unit.channels.producers]

    def _scores(self, filters: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(filters, dim=1)
        order = norms.argsort(stable=True)
        small, large = order.tensor_split([int(len(filters) * (1 - self.rate_norm) + 1e-9)])
        scores = torch.empty_like(norms)
        scores[large] = self._distances(filters[large])
        scores[small] = norms[small] - norms[large].amin() - 1  # below all others, the smallest norm lowest
        return scores

    def _distances(self, filters: Tensor) -> Tensor:
        if self.distance == 'euclidean':
            return summed_distances(filters)
        filters = torch.nn.functional.normalize(filters, dim=1)
        return (1 - filters @ filters.t()).sum(1)


def summed_distances(rows: Tensor) -> Tensor:
    """Return ``Tensor[C]``, the sum of the Euclidean distances of each row of ``Tensor[C, elements]`` to all others."""
    if rows.dtype == torch.float64:
        return torch.cdist(rows, rows, compute_mode='donot_use_mm_for_euclid_dist').sum(1)
    # a matrix product is 12 times as fast for 2,048 filters; in double precision it does not lose small distances
    double = rows.double()
    return torch.cdist(double, double, compute_mode='use_mm_for_euclid_dist').sum(1).to(rows.dtype)
