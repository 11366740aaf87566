"""One small network for each operation that channels can pass, with what has to come of it, worked out by hand.

``NETS[name] = (net, input shape, units, reasons)``: units are {name: number of classes}, reasons are parts of the
reasons for which everything else stays, apart from the image and the outputs.
"""
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

IMAGE = (2, 3, 8, 8)
NETS = {}


def net(units, *reasons, shape=IMAGE):
    """Register a network class."""

    def add(cls):
        NETS[cls.__name__] = (cls, shape, units, reasons)
        return cls

    return add


class Net(nn.Module):
    """``self.a`` of 6 channels on the image, ``middle``, then ``self.head`` on what comes of it."""

    channels = 6

    def __init__(self, out=None, **layers):
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, self.channels, 3, padding=1), nn.BatchNorm2d(self.channels)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head = nn.Conv2d(out or self.channels, 2, 1)

    def forward(self, x):
        return self.head(self.middle(torch.tanh(self.bn(self.a(x)))))


A = {'a_(0, 6)_6': 6}
HALVES = {'a_(0, 6)_6': 3}


# arithmetic


@net({**A, 'b_(0, 6)_6': 6})
class Arithmetic(nn.Module):
    """Two pairs of convs, each pair tied, by every operator."""

    def __init__(self):
        super().__init__()
        self.a, self.a2, self.b, self.b2 = (nn.Conv2d(3, 6, 1) for _ in range(4))
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        left = self.a(x) * 2 - self.a2(x).div(3)
        right = (self.b(x) + 1).mul(self.b2(x)) / (1 + self.b(x).abs())
        return self.head(torch.cat([1 - left, torch.maximum(right, -right)], 1))


@net({**A}, 'mul broadcasts it over the channels of another map')
class OneMapTimesAll(Net):
    def __init__(self):
        super().__init__(gate=nn.Conv2d(6, 1, 1))

    def middle(self, x):
        return x * torch.sigmoid(self.gate(x)) + x.mean((2, 3), keepdim=True)


@net({**A, 'down_(0, 2)_2': 2})
class SqueezeExcite(Net):
    def __init__(self):
        super().__init__(down=nn.Linear(6, 2), up=nn.Linear(2, 6))

    def middle(self, x):
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).flatten(1)))))
        return x * gate.view(len(x), -1, 1, 1).expand_as(x)


@net({}, 'add combines it with a tensor of fixed size')
class PlusTheImage(nn.Module):
    """What is added to the image must keep its size."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.head(self.a(x) + x)


@net(A)
class Masked(Net):
    """Comparisons and constants of an activation's shape follow it."""

    def middle(self, x):
        x = torch.where(x > 0, x, torch.zeros_like(x)) * (x < 0.9) + x.new_ones(x.shape)
        return x.masked_fill(x.isnan(), 0.0).clamp(-1, 3)


@net(A)
class LayerScale(Net):
    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.full((6, 1, 1), 1e-6)), nn.Parameter(torch.zeros(1, 6, 1, 1))

    def middle(self, x):
        return x + self.gamma * x + self.beta


@net(A)
class Activations(Net):
    def __init__(self):
        super().__init__(prelu=nn.PReLU(6), one=nn.PReLU())

    def middle(self, x):
        x = self.one(self.prelu(x))
        for function in (F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.elu, F.softplus, F.leaky_relu):
            x = function(x - 0.5)
        return x


# joining and parting


@net({**A, 'b_(0, 4)_4': 4, 'c_(0, 5)_5': 5})
class NestedConcat(Net):
    def __init__(self):
        super().__init__(15, b=nn.Conv2d(6, 4, 1), c=nn.Conv2d(10, 5, 1))

    def middle(self, x):
        y = torch.cat([x, self.b(x)], 1)
        return torch.cat([self.c(y), y], 1)


@net({'a_(0, 6)_6': 6})
class Stack(nn.Module):
    """Stacked maps have channels at the same places."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.head(torch.stack([self.a(x), self.b(x)], 1).amax(1))


@net({'a_(0, 6)_6': 3, 'm_(0, 3)_3': 3, 'k_(0, 3)_3': 3})
class C2f(Net):
    """Ultralytics' block: the halves of a chunk, one of them through convs, all joined."""

    def __init__(self):
        super().__init__(9, m=nn.Conv2d(3, 3, 3, padding=1), k=nn.Conv2d(3, 3, 1))

    def middle(self, x):
        y = list(x.chunk(2, 1))
        y.append(self.k(torch.tanh(self.m(y[-1]))))
        return torch.cat(y, 1)


@net({'a_(0, 6)_6': 3, 'm_(0, 4)_4': 4})
class Split(Net):
    def __init__(self):
        super().__init__(7, m=nn.Conv2d(3, 4, 1))

    def middle(self, x):
        left, right = x.split(x.size(1) // 2, 1)
        return torch.cat([self.m(left), right], 1)


@net({'a_(0, 6)_6': 3})
class SliceAndNarrow(Net):
    def __init__(self):
        super().__init__(3)

    def middle(self, x):
        half = x.size(1) // 2
        return x[:, :half] * x.narrow(1, half, half)


@net({'a_(0, 6)_6': 3})
class EveryOther(Net):
    def __init__(self):
        super().__init__(3)

    def middle(self, x):
        return x[:, ::2] - x[:, 1::2]


@net(A)
class Focus(Net):
    """YOLOX: four pixels become four times the channels, of the image and of features."""

    def __init__(self):
        super().__init__(24)
        self.a = nn.Conv2d(12, 6, 3, padding=1)

    @staticmethod
    def focus(x):
        return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)

    def forward(self, x):
        return super().forward(self.focus(x))

    def middle(self, x):
        return self.focus(x)


@net({}, 'index_select counts positions along its channels')
class IndexSelect(Net):
    def middle(self, x):
        return x.index_select(1, torch.tensor([5, 4, 3, 2, 1, 0]))


@net({}, 'an index counts positions along its channels')
class Index(Net):
    def middle(self, x):
        return x[:, [0, 2, 4, 1, 3, 5]]


@net({'a_(0, 6)_6': 3}, shape=(2, 3, 8, 8))
class HalvesByView(Net):
    """The halves as an axis of their own, taken apart by position."""

    def __init__(self):
        super().__init__(3)

    def middle(self, x):
        x = x.view(len(x), 2, -1, *x.shape[2:])
        return x[:, 0] * x[:, 1].sigmoid()


@net({'a_(0, 6)_6': 3})
class Glu(Net):
    def __init__(self):
        super().__init__(3)

    def middle(self, x):
        return F.glu(x, 1)


@net({}, 'split cuts its channels into parts of different sizes')
class UnevenChunk(Net):
    channels = 5

    def __init__(self):
        super().__init__(2, b=nn.Conv2d(3, 2, 1))

    def middle(self, x):
        left, right = x.chunk(2, 1)
        return self.b(left) + right


@net({}, 'slice takes one of 2 channels')
class EveryOtherOfSeven(Net):
    channels = 7

    def __init__(self):
        super().__init__(4)

    def middle(self, x):
        return x[:, ::2]


# moving


@net({**A, 'fc_(0, 5)_5': 5})
class ChannelsLast(Net):
    """Permute, a linear layer on 4-D input, transpose, and back."""

    def __init__(self):
        super().__init__(5, fc=nn.Linear(6, 5))

    def middle(self, x):
        return self.fc(x.permute(0, 2, 3, 1)).transpose(2, 3).movedim(2, 1)


@net({**A, 'fc_(0, 5)_5': 5})
class TokensAndBack(Net):
    """A linear layer on 3-D input between a flatten and its inverse."""

    def __init__(self):
        super().__init__(5, fc=nn.Linear(6, 5))

    def middle(self, x):
        n, c, h, w = x.shape
        tokens = self.fc(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(n, -1, h, w)


@net({**A, 'fc_(0, 4)_4': 4})
class FlattenAll(Net):
    """A linear layer on 2-D input reads all positions of a channel."""

    def __init__(self):
        super().__init__(fc=nn.Linear(24, 4))
        self.head = nn.Linear(4, 2)

    def middle(self, x):
        return self.fc(F.adaptive_max_pool2d(x, 2).flatten(1))


@net({'a_(0, 6)_6': 3})
class Shuffle(Net):
    def middle(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@net({'a_(0, 12)_12': 2})
class ShuffleOfManyGroups(Net):
    """Six groups of two: the size that is left open is the one that shrinks, although it is the smaller one."""

    channels = 12

    def middle(self, x):
        return x.view(len(x), 6, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


@net({'a_(0, 6)_6': 3})
class ChannelShuffle(Net):
    def __init__(self):
        super().__init__(shuffle=nn.ChannelShuffle(2))

    def middle(self, x):
        return self.shuffle(x)


@net({'a_(0, 12)_12': 3})
class PixelShuffle(Net):
    channels = 12

    def __init__(self):
        super().__init__(3)

    def middle(self, x):
        return F.pixel_shuffle(x, 2)


@net({'a_(0, 12)_12': 3})
class PixelShuffleByViews(Net):
    channels = 12

    def __init__(self):
        super().__init__(3)

    def middle(self, x):
        n, c, h, w = x.shape
        return x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)


@net(A)
class PixelUnshuffle(Net):
    def __init__(self):
        super().__init__(24)

    def middle(self, x):
        return F.pixel_unshuffle(x, 2)


@net(A)
class Pad(Net):
    def middle(self, x):
        return F.pad(F.pad(F.pad(x, (1, 1, 0, 2)), (1, 1, 1, 1), mode='reflect'), (0, 1, 1, 0), mode='replicate')


@net(A, "it is the model's input")
class PadChannels(Net):
    """ResNet's option A: channels of zeros behind the real ones."""

    def __init__(self):
        super().__init__(8)

    def middle(self, x):
        return F.pad(x, (0, 0, 0, 0, 0, 2))


@net(A)
class RollAndFlip(Net):
    """Over space, and the order of channels turned round."""

    def middle(self, x):
        return x.roll((1, 2), (2, 3)).flip(1).flip(3)


@net({}, 'roll counts positions along its channels')
class RollChannels(Net):
    def middle(self, x):
        return x.roll(1, 1)


@net(A)
class RepeatAndExpand(Net):
    def __init__(self):
        super().__init__(24)

    def middle(self, x):
        x = x + x.mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[2:])
        return torch.cat([x.repeat(1, 2, 1, 1), x.repeat_interleave(2, dim=1)], 1)


@net(A)
class Resize(Net):
    def middle(self, x):
        up = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        return F.interpolate(up, size=(5, 5)) + F.interpolate(x, size=(5, 5), mode='bicubic')


@net(A)
class Pools(Net):
    def middle(self, x):
        x = F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)
        return F.adaptive_avg_pool2d(x, 2) + F.adaptive_max_pool2d(x, 2) + x.sum((2, 3), keepdim=True) + x.amax(
            (2, 3), keepdim=True) + x.std((2, 3), keepdim=True)


@net({}, 'mean reduces over the channel axis')
class MeanOfChannels(Net):
    def middle(self, x):
        return x * x.mean(1, keepdim=True)


@net({'a_(0, 6)_6': 6})
class UnfoldAndFold(Net):
    def middle(self, x):
        columns = F.unfold(x, 2, stride=2)
        return F.fold(columns * 2, x.shape[2:], 2, stride=2)


@net(A)
class InPlaceParts(Net):
    """Results written into parts of a new tensor."""

    def __init__(self):
        super().__init__(12)

    def middle(self, x):
        out = x.new_zeros(len(x), 2 * x.size(1), *x.shape[2:])
        out[:, :x.size(1)] = x
        out[:, x.size(1):].copy_(x.relu())
        return out


@net({'a_(0, 6)_6': 3})
class WrittenOverInPlace(Net):
    """What is written over a part of a tensor has that part's size."""

    def __init__(self):
        super().__init__(k=nn.Conv2d(6, 3, 1))

    def middle(self, x):
        y = x.clone()
        z = self.k(x)
        y[:, :z.size(1)] = z
        return y


@net({**A, 'o_(0, 4)_4': 4}, 'grid_sampler_2d takes it as positions')
class SampledPositions(Net):
    def __init__(self):
        super().__init__(o=nn.Conv2d(6, 4, 1), offsets=nn.Conv2d(4, 2, 1))

    def middle(self, x):
        grid = self.offsets(torch.tanh(self.o(x))).tanh()
        return F.grid_sample(x, grid.permute(0, 2, 3, 1), align_corners=False)


# layers


@net({'a_(0, 6)_6': 6, 'b_(0, 5)_5': 5}, shape=(2, 3, 9))
class OneDimension(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Conv1d(6, 5, 3)
        self.up = nn.ConvTranspose1d(5, 4, 2)

    def forward(self, x):
        x = F.avg_pool1d(self.b(F.relu(self.bn(self.a(x)))), 2)
        return self.up(x)


@net({'a_(0, 6)_6': 6, 'b_(0, 5)_5': 5}, shape=(2, 3, 4, 6, 6))
class ThreeDimensions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.Conv3d(6, 5, 1)
        self.head = nn.ConvTranspose3d(5, 2, 2, stride=2)

    def forward(self, x):
        x = F.max_pool3d(F.relu(self.bn(self.a(x))), 2)
        return self.head(F.adaptive_avg_pool3d(self.b(x), 2))


@net({**A, 'up_(0, 4)_4': 2, 'group_(0, 2)_2': 2, 'mix_(0, 4)_4': 4})
class Transposed(Net):
    """Plain, grouped and depthwise transposed convs; the grouped one names its unit by the channels of one group."""

    def __init__(self):
        super().__init__(8, up=nn.ConvTranspose2d(6, 4, 2, stride=2), group=nn.ConvTranspose2d(4, 4, 3, groups=2),
                         mix=nn.Conv2d(4, 4, 1), deep=nn.ConvTranspose2d(4, 8, 2, groups=4))

    def middle(self, x):
        return self.deep(self.mix(self.group(self.up(x))))


@net({'a_(0, 6)_6': 3, 'g_(0, 4)_4': 2})
class Grouped(Net):
    def __init__(self):
        super().__init__(4, g=nn.Conv2d(6, 4, 3, groups=2))

    def middle(self, x):
        return self.g(x)


@net(A)
class DepthwiseMultiplier(Net):
    def __init__(self):
        super().__init__(12, deep=nn.Conv2d(6, 12, 3, groups=6), norm=nn.BatchNorm2d(12))

    def middle(self, x):
        return self.norm(self.deep(x))


@net({'a_(0, 6)_6': 2, 'b_(0, 4)_4': 4}, 'group_norm normalises across channels')
class Norms(Net):
    """Group norm in whole groups; instance norm and synchronised batch norm like batch norm; one group freezes."""

    def __init__(self):
        super().__init__(5, group=nn.GroupNorm(2, 6), b=nn.Conv2d(6, 4, 1), inst=nn.InstanceNorm2d(4, affine=True),
                         sync=nn.SyncBatchNorm(4), c=nn.Conv2d(4, 5, 1), one=nn.GroupNorm(1, 5))

    def middle(self, x):
        return self.one(self.c(self.sync(self.inst(self.b(self.group(x))))))


class FrozenBatchNorm(nn.Module):
    """Buffers instead of parameters, as torchvision's detectors have it."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer('scale', torch.rand(channels) + 0.5)
        self.register_buffer('shift', torch.randn(channels))

    def forward(self, x):
        return x * self.scale.reshape(1, -1, 1, 1) + self.shift.reshape(1, -1, 1, 1)


@net({**A, 'b_(0, 5)_5': 5})
class FrozenParameters(Net):
    def __init__(self):
        super().__init__(5, b=nn.Conv2d(6, 5, 1), frozen=FrozenBatchNorm(5))
        self.a.requires_grad_(False)
        self.b.requires_grad_(False)

    def middle(self, x):
        return self.frozen(self.b(x))


@net(A)
class PositionBias(Net):
    """Parameters over space, and over space and channels."""

    def __init__(self):
        super().__init__(space=nn.LayerNorm([8, 8]))
        self.bias, self.both = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(1, 6, 8, 8))

    def middle(self, x):
        return self.space(x) + self.bias + self.both


@net({**A, 'w_(0, 4)_4': 4})
class ComputedNormAndBufferWeight(Net):
    """Batch statistics with a computed scale; a conv whose weight is a buffer."""

    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('weight', torch.randn(4, 6, 1, 1))

    def __init__(self):
        super().__init__(4, w=self.Weight())
        self.scale, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def middle(self, x):
        x = F.batch_norm(x, None, None, self.scale * 2, self.shift - 1, True)
        return F.conv2d(x, self.w.weight)


@net({'b_(0, 4)_4': 4}, "'enc.weight' is used in two ways")
class TiedTranspose(nn.Module):
    """An encoder whose weight decodes as well."""

    def __init__(self):
        super().__init__()
        self.b, self.c, self.enc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Linear(6, 5)

    def forward(self, x):
        x = self.c(self.b(x)).mean((2, 3))
        return F.linear(torch.tanh(self.enc(x)), self.enc.weight.t())


@net({**A, 'b_(0, 5)_5': 5})
class KeptActivation(Net):
    """A module keeps what it computed, and takes its input by keyword."""

    def __init__(self):
        super().__init__(5, b=nn.Conv2d(6, 5, 1))

    def middle(self, x):
        self.feature = self.b(input=x)
        return self.feature.relu()


@net({'embed_(0, 6)_6': 6, 'up_(0, 8)_8': 8})
class TokenMixer(nn.Module):
    """A residual stream of tokens with a bias of its own, no norm, and an MLP."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, 6, 2, stride=2), nn.Parameter(torch.randn(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, 17, 6))
        self.up, self.down, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x[:, 0])


@net({'up_(0, 8)_8': 8}, 'cutting it breaks the forward', 'bmm multiplies it with another activation')
class Attention(nn.Module):
    """A transformer block with products of its own; only the hidden units of the MLP can go."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.qkv = nn.Conv2d(3, 6, 2, stride=2), nn.LayerNorm(6), nn.Linear(6, 18)
        self.proj, self.up, self.down, self.head = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(n, t, c))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


@net({'embed_(0, 6)_6': 6, 'attention_(0, 18)_18#heads': 2, 'attention_(0, 18)_12#qk': 3, 'attention_(0, 18)_6#v': 3,
      'up_(0, 8)_8': 8}, 'scaled_dot_product_attention')
class FusedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Conv2d(3, 6, 2, stride=2), nn.MultiheadAttention(6, 2, batch_first=True)
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)
        self.up, self.down, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.proj(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


@net({'a_(0, 6)_6': 6})
class Reparameterised(Net):
    """RepVGG and MobileOne: parallel branches that can be folded into one conv."""

    def __init__(self):
        super().__init__(b3=nn.Conv2d(6, 6, 3, padding=1, bias=False), n3=nn.BatchNorm2d(6),
                         b1=nn.Conv2d(6, 6, 1, bias=False), n1=nn.BatchNorm2d(6), n0=nn.BatchNorm2d(6))

    def middle(self, x):
        return F.relu(self.n3(self.b3(x)) + self.n1(self.b1(x)) + self.n0(x))


@net({**A, 'w_(0, 4)_4': 4})
class FunctionalWeights(nn.Module):
    """Weights without a conv module, and a bias without a layer."""

    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6, 1, 1))

    def __init__(self):
        super().__init__()
        self.a, self.w, self.head = nn.Conv2d(3, 6, 1), self.Weight(), nn.Conv2d(4, 2, 1)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.head(F.conv2d(self.a(x), self.w.weight) + self.bias.view(1, -1, 1, 1))


@net({**A, 'b_(0, 6)_6': 6})
class ManyTimesAndTwoParents(nn.Module):
    """One conv used three times; a block registered under two parents; one weight in two modules."""

    def __init__(self):
        super().__init__()
        self.a, self.same, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.first, self.second = nn.Sequential(self.b, nn.Tanh()), nn.Sequential(self.b, nn.ReLU())
        self.twin, self.head = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)
        self.twin.weight, self.twin.bias = self.b.weight, self.b.bias

    def forward(self, x):
        x = self.a(x)
        x = self.same(torch.tanh(self.same(torch.tanh(self.same(x)))))
        return self.head(self.first(x) + self.second(x) + self.twin(x))


@net({'p3_(0, 4)_4': 4, 'tower_(0, 6)_6': 6})
class SharedHead(nn.Module):
    """One head over three levels."""

    def __init__(self):
        super().__init__()
        self.p3, self.p4, self.p5 = (nn.Conv2d(3, 4, 3, stride=stride, padding=1) for stride in (1, 2, 4))
        self.tower, self.norm, self.cls = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return [self.cls(F.relu(self.norm(self.tower(level(x))))) for level in (self.p3, self.p4, self.p5)]


@net(A, 'it is produced in training only')
class AuxiliaryHead(Net):
    """A head that runs in training only reads pruned channels too; its own stay."""

    def __init__(self):
        super().__init__(aux=nn.Conv2d(6, 5, 1), aux_head=nn.Conv2d(5, 2, 1))

    def forward(self, x):
        x = torch.tanh(self.bn(self.a(x)))
        return (self.head(x), self.aux_head(self.aux(x))) if self.training else self.head(x)


@net(A, 'the traced forward never runs it')
class NeverRun(Net):
    def __init__(self):
        super().__init__(spare=nn.Conv2d(6, 6, 1))

    def middle(self, x):
        return x


@net({**A, 'b_(0, 5)_5': 5})
class Checkpointed(Net):
    """Gradient checkpointing runs ordinary operations."""

    def __init__(self):
        super().__init__(5, b=nn.Conv2d(6, 5, 1))

    def middle(self, x):
        block = lambda y: torch.relu(self.b(y))  # noqa: E731
        return checkpoint(block, x, use_reentrant=True) if x.requires_grad else block(x)


@net({'b_(0, 5)_5': 5}, 'Opaque computes outside torch')
class CompiledOperation(Net):
    """An autograd function whose arithmetic happens elsewhere."""

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(x.numpy() * 2)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    def __init__(self):
        super().__init__(5, b=nn.Conv2d(6, 5, 1))

    def middle(self, x):
        return self.b(self.Opaque.apply(x))


# sizes written into a forward: only a cut can tell


@net({'b_(0, 4)_4': 4}, "cutting it breaks the forward of the model, at 'b'")
class FixedSplit(Net):
    def __init__(self):
        super().__init__(4, b=nn.Conv2d(3, 4, 1))

    def middle(self, x):
        return self.b(x.split(3, 1)[0])


@net({'b_(0, 4)_4': 4}, "first seen in layer 'b'")
class DependsOnTheCount(Net):
    def __init__(self):
        super().__init__(4, b=nn.Conv2d(6, 4, 1))

    def middle(self, x):
        return self.b(x / x.shape[1])
