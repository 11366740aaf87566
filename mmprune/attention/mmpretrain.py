"""Attentions of mmpretrain, and of mmcls, as its first versions are called, by class name."""
from typing import Any, Optional

from torch import Tensor

from .product import AttentionProduct
from .taking_over import PrunableAttention, register_attention


def _of_both(name: str) -> Any:
    return register_attention(f'mmpretrain.{name}', f'mmcls.{name}')


@_of_both('MultiheadAttention')
class MMPretrainAttention(PrunableAttention):
    """Of vision transformers: one layer for queries, keys and values, side by side."""

    qkv: Any
    proj: Any

    def unfit(self) -> Optional[str]:
        """Return what goes past the product."""
        return 'its values go past its projection, too' if self.v_shortcut else None

    def begin(self) -> None:
        """Write the sizes down; the scale is that of the function which the dense module calls."""
        own: Any = getattr(self, 'scaled_dot_product_attention', None)
        scale = getattr(self, 'scale', None)
        if scale is None and (given := getattr(own, 'keywords', {}).get('scale')):
            scale = 1 / given  # it divides by what it is given
        drop: Any = self.attn_drop
        self.product = AttentionProduct(self.num_heads, self.head_dims, self.head_dims, scale,
                                        dropout=getattr(drop, 'p', drop))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(self.product(self.qkv(x))))))
