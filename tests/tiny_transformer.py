"""A small vision transformer whose attention takes sizes from everywhere, and the forward that replaces it."""
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune import AttentionProduct, PrunableAttention, register_attention


class TinyAttention(nn.Module):
    """Reads the width of the stream from its input, heads from an attribute, and the scale from the width of a head."""

    def __init__(self, dim, heads, norm=False, biased=False, tokens=0):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // heads) if norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if norm else nn.Identity()
        self.table = nn.Parameter(torch.randn(tokens, tokens, heads)) if biased else None

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = None if self.table is None else self.table.permute(2, 0, 1)
        out = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, bias)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))


@register_attention('tiny_transformer.TinyAttention')
class TinyAttentionForward(PrunableAttention):
    """The same with sizes from its product."""

    def unfit(self):
        return 'it has no projection' if self.proj is None else None

    def begin(self):
        size = self.qkv.in_features // self.num_heads
        self.product = AttentionProduct(self.num_heads, size, size)

    def forward(self, x):
        bias = None if self.table is None else self.table.permute(2, 0, 1)
        return self.proj(self.product(self.qkv(x), bias=bias, q_norm=self.q_norm, k_norm=self.k_norm))


class Block(nn.Module):
    def __init__(self, dim, heads, **options):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), TinyAttention(dim, heads, **options)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TinyViT(nn.Module):
    """Patches of 4 x 4 of images of 8 x 8, a class token, positions, blocks, a norm and a head."""

    def __init__(self, dim=12, heads=3, depth=2, classes=5, **options):
        super().__init__()
        if options.get('biased'):
            options['tokens'] = 5
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, dim)), nn.Parameter(torch.randn(1, 5, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, **options) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def images(count=2, dtype=torch.float64):
    """Return random images."""
    return torch.randn(count, 3, 8, 8, dtype=dtype)
