"""What mmdet's transformers compute on the width of their stream."""
from typing import Any, Optional, Tuple

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


@register_attention('mmdet.DeformableDETR')
class DeformableDetector(PrunableAttention):
    """Splits its queries by their own width, and not by that of the encoder, which may keep other channels."""

    adds = ()

    def unfit(self) -> Optional[str]:
        """Return why the encoder's width counts."""
        return 'its queries are places of the encoder' if self.as_two_stage else None

    def pre_decoder(self, memory: Tensor, *args: Any, **kwargs: Any) -> Tuple[Any, Any]:
        """Return what the decoder and the head are given; see mmdet."""
        alike = memory.new_empty(len(memory), 0, self.query_embedding.weight.size(1) // 2)
        inputs, head_inputs = plain_class(self).pre_decoder(self, alike, *args, **kwargs)
        inputs['memory'] = memory
        return inputs, head_inputs
