"""Filters near the geometric median: He et al., Filter Pruning via Geometric Median, CVPR 2019 (equations 4 to 8)."""
from typing import List

import torch
from torch import Tensor

from ..registry import CRITERIA
from ..unit import ChannelUnit
from .criterion import Criterion, _known


@CRITERIA.register_module()
class FPGM(Criterion):
    """``s_c = sum_j d(F_c, F_j)``: a filter that the others are near to can be replaced by them.

    Args:
        distance (str): ``euclidean``, or ``cosine`` for ``1 - cos``.
        combine (str): See :class:`Criterion`.
        normalize (str): See :class:`Criterion`.
    """

    def __init__(self, distance: str = 'euclidean', combine: str = 'mean', normalize: str = 'none') -> None:
        super().__init__(combine, normalize)
        self.distance = _known('distance', distance, {'euclidean': None, 'cosine': None})

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the summed distances in each layer that produces the unit."""
        return [self._distances(self.slices(unit, member)) for member in unit.channels.producers]

    def _distances(self, filters: Tensor) -> Tensor:
        if self.distance == 'cosine':
            filters = torch.nn.functional.normalize(filters, dim=1)
            return (1 - filters @ filters.t()).sum(1)
        # not by a matrix product: it loses the small distances, which matter here
        return torch.cdist(filters, filters, compute_mode='donot_use_mm_for_euclid_dist').sum(1)
