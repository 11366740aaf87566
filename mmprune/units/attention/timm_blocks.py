"""Blocks of timm that take the width of the stream from a shape, so that a cut would break them."""
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .taking_over import PrunableAttention, register_attention


class PatchwiseBlock(PrunableAttention):
    """Tokens of MobileViT: the same place of all patches of a feature map."""

    patch_size: Any

    def _through(self, x: Tensor) -> Tensor:
        """Return ``Tensor[B, C, H, W]`` after the transformer."""
        size, (height, width) = x.shape[-2:], self.patch_size
        rows, columns = (math.ceil(one / patch) for one, patch in zip(size, (height, width)))
        resized = (rows * height, columns * width) != tuple(size)
        if resized:
            x = F.interpolate(x, size=(rows * height, columns * width), mode='bilinear', align_corners=False)
        x = x.unflatten(-1, (columns, width)).unflatten(2, (rows, height)).permute(0, 3, 5, 2, 4, 1)
        batch = len(x)
        x = self.norm(self.transformer(x.flatten(3, 4).flatten(0, 2)))
        x = x.unflatten(0, (batch, height, width)).unflatten(3, (rows, columns))
        x = x.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)
        return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False) if resized else x


@register_attention('timm.models.mobilevit.MobileVitBlock')
class TimmMobileVitBlock(PatchwiseBlock):
    """Of MobileViT."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a feature map ``Tensor[B, C, H, W]``."""
        out = self.conv_proj(self._through(self.conv_1x1(self.conv_kxk(x))))
        return out if self.conv_fusion is None else self.conv_fusion(torch.cat((x, out), 1))  # type: ignore[no-any-return]
