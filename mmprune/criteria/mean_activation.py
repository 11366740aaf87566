"""The mean activation: Molchanov et al., Pruning CNNs for Resource Efficient Inference, ICLR 2017 (section 2.2)."""
from torch import Tensor

from ..registry import CRITERIA
from .inputs import InputStatistic


@CRITERIA.register_module()
class MeanActivation(InputStatistic):
    """``s_c = mean over samples and positions of a_c``: a channel that is rarely large is a poor detector.

    Its arguments are those of :class:`Criterion`.
    """

    def statistic(self, x: Tensor) -> Tensor:
        """Return the means over samples and positions."""
        return x.transpose(0, 1).flatten(1).mean(1)
