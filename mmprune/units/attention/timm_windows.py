"""Attentions of timm over the tokens of a window."""
import math
from typing import Any, List, Optional

import torch.nn.functional as F
from torch import Tensor

from .product import AttentionProduct
from .products import CosineProduct
from .taking_over import register_attention
from .timm import PackedAttention, packed_with_biases


def mask_of_windows(mask: Optional[Tensor], batch: int) -> Optional[Tensor]:
    """Return the mask of each window of a batch, ``Tensor[B, 1, N, N]``; given is that of an image, one a window."""
    return None if mask is None else mask.unsqueeze(1).repeat(batch // len(mask), 1, 1, 1)


@register_attention('timm.models.swin_transformer.WindowAttention')
class TimmWindowAttention(PackedAttention):
    """Of Swin: a bias for pairs of places of a window."""

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention of tokens ``Tensor[B * windows, N, C]``; ``mask`` is ``Tensor[windows, N, N]``."""
        return self._projected(self.product(self.qkv(x), bias=self._get_rel_pos_bias(),
                                            mask=mask_of_windows(mask, len(x))))


class CosineAttention(PackedAttention):
    """Cosine attention with a temperature of the head, no more than 100."""

    def begin(self) -> None:
        """Write the sizes down."""
        heads = self.num_heads
        dims = self.qkv.weight.size(0) // (3 * heads)
        self.product = CosineProduct(heads, dims, dims, self.attn_drop.p)

    def _read(self, packed: Tensor, bias: Tensor, mask: Optional[Tensor]) -> Tensor:
        temperature = self.logit_scale.view(-1, 1, 1).clamp(max=math.log(1 / 0.01)).exp()
        out = self.product(packed, bias=bias, mask=mask_of_windows(mask, len(packed)), temperature=temperature)
        return self._projected(out)


@register_attention('timm.models.swin_transformer_v2.WindowAttention')
class TimmWindowAttentionV2(CosineAttention):
    """Of Swin V2: the bias for pairs of places is computed from their distance."""

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention of tokens ``Tensor[B * windows, N, C]``; ``mask`` is ``Tensor[windows, N, N]``."""
        bias = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)[self.relative_position_index.view(-1)]
        bias = 16 * bias.unflatten(0, self.relative_position_index.shape).permute(2, 0, 1).sigmoid().unsqueeze(0)
        return self._read(packed_with_biases(self, x), bias, mask)


@register_attention('timm.models.swin_transformer_v2_cr.WindowMultiHeadAttention')
class TimmWindowAttentionV2Cr(CosineAttention):
    """Of timm's own Swin V2."""

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention of tokens ``Tensor[B * windows, N, C]``; ``mask`` is ``Tensor[windows, N, N]``."""
        tokens = x.size(1)
        bias = self.meta_mlp(self.relative_coordinates_log).transpose(0, 1).unflatten(-1, (tokens, tokens))
        return self._read(self.qkv(x), bias.unsqueeze(0), mask)


def bias_of_pairs(rel_pos: Any) -> Tensor:
    """Return the bias ``Tensor[.., heads, N, N]`` of a module for pairs of places, whatever its number of heads is."""
    if hasattr(rel_pos, 'height_lookup'):  # products with one-hot matrices are lookups
        height, width = (lookup.argmax(-1) for lookup in (rel_pos.height_lookup, rel_pos.width_lookup))
        rows = rel_pos.relative_position_bias_table[:, height]  # [heads, h, h, table's width]
        return rows[..., width].permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)  # [heads, h * w, h * w]
    if hasattr(rel_pos, 'relative_position_bias_table'):
        area = math.isqrt(len(rel_pos.relative_position_index))
        bias = rel_pos.relative_position_bias_table[rel_pos.relative_position_index]
        return bias.unflatten(0, (area, area)).permute(2, 0, 1).unsqueeze(0)
    area = rel_pos.window_area
    bias = rel_pos.mlp(rel_pos.rel_coords_log).flatten(0, -2)[rel_pos.relative_position_index]
    bias = rel_pos.bias_act(bias.unflatten(0, (area, area)).permute(2, 0, 1))
    bias = bias if rel_pos.bias_gain is None else rel_pos.bias_gain * bias
    if rel_pos.prefix_tokens:
        bias = F.pad(bias, [rel_pos.prefix_tokens, 0, rel_pos.prefix_tokens, 0])
    return bias.unsqueeze(0)


class ByHeadAttention(PackedAttention):
    """Heads of a width that is written down, side by side or head after head."""

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.dim_head, self.dim_head, self.scale,
                                        dropout=self.attn_drop.p, by_head=self.head_first)

    def _bias(self, shared: Optional[Tensor]) -> Optional[Tensor]:
        return shared if self.rel_pos is None else bias_of_pairs(self.rel_pos)


@register_attention('timm.models.maxxvit.AttentionCl')
class TimmLastAttention(ByHeadAttention):
    """Of MaxViT, channels last."""

    def forward(self, x: Tensor, shared_rel_pos: Optional[Tensor] = None) -> Tensor:
        """Return the attention of tokens ``Tensor[B, .., C]`` to one another."""
        out = self.product(self.qkv(x.flatten(1, -2)), bias=self._bias(shared_rel_pos))
        return self._projected(out.unflatten(1, x.shape[1:-1]))


@register_attention('timm.models.maxxvit.Attention2d')
class TimmFirstAttention(ByHeadAttention):
    """Of CoAtNet, on feature maps."""

    def forward(self, x: Tensor, shared_rel_pos: Optional[Tensor] = None) -> Tensor:
        """Return the attention of places of ``Tensor[B, C, H, W]`` to one another."""
        out = self.product(self.qkv(x).flatten(2).transpose(1, 2), bias=self._bias(shared_rel_pos))
        return self._projected(out.transpose(1, 2).unflatten(-1, x.shape[-2:]))


@register_attention('timm.models.gcvit.WindowAttentionGlobal')
class TimmGlobalQueryAttention(PackedAttention):
    """Of GCViT: queries of a window, or of the whole image."""

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.head_dim, self.head_dim, self.scale,
                                        dropout=self.attn_drop.p)

    def forward(self, x: Tensor, q_global: Optional[Tensor] = None) -> Tensor:
        """Return the attention of tokens ``Tensor[B * windows, N, C]``; queries of the image are ``[B, .., N, C]``."""
        parts = [self.qkv(x)]
        if self.use_global and q_global is not None:
            query = q_global.repeat_interleave(len(x) // len(q_global), 0)
            parts = [query.flatten(1, -2), *parts]
        return self._projected(self.product(*parts, bias=bias_of_pairs(self.rel_pos)))


def places_in_windows(x: Tensor, window: int) -> Tensor:
    """Return tokens of windows ``Tensor[B * windows, window^2, C]`` of a grid ``Tensor[B, H, W, C]``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels).transpose(2, 3)
    return x.reshape(-1, window * window, channels)


def places_of_windows(x: Tensor, window: int, size: List[int]) -> Tensor:
    """Return the grid ``Tensor[B, H, W, C]`` of tokens of windows."""
    height, width = size
    x = x.reshape(-1, height // window, width // window, window, window, x.size(-1)).transpose(2, 3)
    return x.reshape(-1, height, width, x.size(-1))


@register_attention('timm.models.twins.LocallyGroupedAttn')
class TimmLocalAttention(PackedAttention):
    """Of Twins: tokens of a grid, window by window; the last ones may be padded."""

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """Return the attention of tokens ``Tensor[B, H * W, C]`` to those of their window; ``size`` is ``(H, W)``."""
        height, width = size
        window = self.ws
        x = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, -width % window, 0, -height % window))
        padded = list(x.shape[1:3])
        out = places_of_windows(self.product(self.qkv(places_in_windows(x, window))), window, padded)
        return self._projected(out[:, :height, :width].flatten(1, 2))
