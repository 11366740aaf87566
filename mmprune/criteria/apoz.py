"""Average percentage of zeros: Hu et al., Network Trimming, arXiv 2016 (equation 1)."""
from torch import Tensor

from ..registry import CRITERIA
from .inputs import InputStatistic


@CRITERIA.register_module()
class APoZ(InputStatistic):
    """``s_c = 1 - APoZ_c``: the share of samples and positions at which a channel is not zero.

    It is counted where the next layers read the channel: after a max pooling zeros are rarer than before it, and after
    an activation without exact zeros every score is 1.

    Its arguments are those of :class:`Criterion`.
    """

    def statistic(self, x: Tensor) -> Tensor:
        """Return the shares over samples and positions."""
        return (x != 0).transpose(0, 1).flatten(1).to(x.dtype).mean(1)
