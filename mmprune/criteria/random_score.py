"""Random scores: what every criterion has to beat."""
from typing import List

import torch
from torch import Tensor

from ..arguments import whole_number
from ..registry import CRITERIA
from ..units.unit import ChannelUnit
from .criterion import Criterion


@CRITERIA.register_module()
class Random(Criterion):
    """Scores drawn evenly from 0 to 1, the same for the same seed, unit and width.

    Args:
        seed (int): Seed of the draw.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = whole_number('seed', seed, 0)

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return one draw."""
        place = [other.name for other in self.mutator.units].index(unit.name)
        generator = torch.Generator().manual_seed(self.seed * 100003 + place)
        return [torch.rand(int(unit.kept.sum()), generator=generator)]
