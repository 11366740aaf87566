"""What mmdet's transformers compute on the width of their stream."""
from typing import Any

from torch import Tensor

from .kept_channels import KeptChannels
from .taking_over import PrunableAttention, plain_class, register_attention


@register_attention('mmdet.SinePositionalEncoding')
class SinePositions(PrunableAttention):
    """Positions by sines and cosines: constants that are added to the stream."""

    adds = ('kept', )

    def begin(self) -> None:
        """Write the width down."""
        self.kept = KeptChannels(2 * self.num_feats, 1)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the positions of a map, ``Tensor[B, C, H, W]``, of the channels that are left."""
        return self.kept(plain_class(self).forward(self, *args, **kwargs))  # type: ignore[no-any-return]
