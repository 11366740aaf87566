"""Deformable attention: values at places that each query computes, head by head (Zhu et al., ICLR 2021)."""
import sys
from typing import Any, Optional

from torch import Tensor, nn

from .axes import split_axis
from .taking_over import PrunableAttention, plain_class, register_attention


class DeformableProduct(nn.Module):
    """Sums values at a few places of each level by weights that the query computes.

    Args:
        heads (int): Heads.
        v_dims (int): Channels of a head's values.
        levels (int): Feature maps.
        points (int): Places of a query in each map.

    Attributes:
        heads, v_dims (int): The present sizes; a cut writes them.
    """

    def __init__(self, heads: int, v_dims: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.v_dims, self.levels, self.points = heads, v_dims, levels, points

    def forward(self, values: Tensor, offsets: Tensor, weights: Tensor, references: Tensor, shapes: Tensor,
                starts: Tensor, sample: Any) -> Tensor:
        """Return what the heads read, side by side.

        Args:
            values (Tensor[B, M, heads * v_dims]): Of the places of all maps.
            offsets (Tensor[B, N, heads * levels * points * 2]): From the reference to the places, x and y.
            weights (Tensor[B, N, heads * levels * points]): Of the places, before a softmax.
            references (Tensor[B, N, levels, 2 or 4]): Points, or boxes by centre and size, in shares of the image.
            shapes (LongTensor[levels, 2]): Height and width of the maps.
            starts (LongTensor[levels]): Where each map begins among the M places.
            sample (Callable): The operation of the library.

        Returns:
            Tensor[B, N, heads * v_dims]: In the order of the heads.
        """
        sizes = (self.heads, self.levels, self.points)
        moved = split_axis(offsets, -1, (*sizes, 2))
        if references.size(-1) == 2:
            moved = moved / shapes.flip(-1)[:, None]
        else:
            moved = moved / self.points * references[:, :, None, :, None, 2:] * 0.5
        places = references[:, :, None, :, None, :2] + moved
        shares = split_axis(split_axis(weights, -1, (self.heads, -1)).softmax(-1), -1, sizes[1:])
        return sample(split_axis(values, -1, (self.heads, -1)), shapes, starts, places, shares)  # type: ignore[no-any-return]


@register_attention('mmcv.MultiScaleDeformableAttention')
class MultiScaleDeformableAttention(PrunableAttention):
    """Of mmcv, for Deformable DETR and what follows it."""

    def begin(self) -> None:
        """Write the sizes down."""
        dims = self.value_proj.out_features // self.num_heads
        self.product = DeformableProduct(self.num_heads, dims, self.num_levels, self.num_points)

    def forward(self, query: Tensor, key: Optional[Tensor] = None, value: Optional[Tensor] = None,
                identity: Optional[Tensor] = None, query_pos: Optional[Tensor] = None,
                key_padding_mask: Optional[Tensor] = None, reference_points: Any = None, spatial_shapes: Any = None,
                level_start_index: Any = None, **kwargs: Any) -> Tensor:
        """Return queries with what they read of the values added; see mmcv, whose arguments these are."""
        value = query if value is None else value
        identity = kwargs.get('residual') if identity is None else identity
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        out = self.output_proj(self.product(value, self.sampling_offsets(query), self.attention_weights(query),
                                            reference_points, spatial_shapes, level_start_index, self._sample))
        return self.dropout(out if self.batch_first else out.transpose(0, 1)) + identity  # type: ignore[no-any-return]

    def _sample(self, values: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, shares: Tensor) -> Tensor:
        ops = sys.modules[plain_class(self).__module__]
        if values.is_cuda:
            return ops.MultiScaleDeformableAttnFunction.apply(  # type: ignore[no-any-return]
                values, shapes, starts, places, shares, self.im2col_step)
        return ops.multi_scale_deformable_attn_pytorch(values, shapes, places, shares)  # type: ignore[no-any-return]
