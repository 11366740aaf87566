"""Small networks that write sizes down, look at values, and multiply with parameters; see :mod:`op_nets`."""
import warnings

import torch
from op_nets import A, Net, net
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import prune

# sizes that are written down


@net({'a_(0, 6)_6': 2, 'b_(0, 2)_2': 2, 'c_(0, 2)_2': 2})
class WidthOfASplit(Net):
    """Res2Net's way: parts of ``self.width`` channels, each a branch."""

    def __init__(self):
        super().__init__(6, b=nn.Conv2d(2, 2, 3, padding=1), c=nn.Conv2d(2, 2, 3, padding=1))
        self.width = 2

    def middle(self, x):
        first, second, third = torch.split(x, self.width, 1)
        return torch.cat([first, self.b(second).relu(), self.c(third).relu()], 1)


@net({'a_(0, 2)_2': 2, 'a_(2, 6)_4': 4})
class Slices(Net):
    """The first channels through an activation, the others as they are."""

    def __init__(self):
        super().__init__()
        self.first = 2

    def middle(self, x):
        return torch.cat([x[:, :self.first].sigmoid(), x[:, self.first:]], dim=1)


@net({'a_(1, 3)_2': 2, 'a_(3, 6)_3': 3}, 'it is the only channel of its layer')
class TupleOfSizes(Net):
    """Parts of unequal sizes from a tuple."""

    def __init__(self):
        super().__init__()
        self.sizes = (1, 2, 3)

    def middle(self, x):
        one, two, three = x.split(self.sizes, dim=1)
        return torch.cat([one.relu(), two.tanh(), three.sigmoid()], 1)


@net({'a_(0, 6)_6': 3})
class HalfOfASize(Net):
    """Half of an attribute is the size of both parts."""

    def __init__(self):
        super().__init__(3)
        self.both = 6

    def middle(self, x):
        gate, value = x.split(self.both // 2, 1)
        return gate.sigmoid() * value


@net({**A, 'fc_(0, 5)_5': 5})
class ViewOfASize(nn.Module):
    """A view whose channels are counted by an attribute."""

    def __init__(self):
        super().__init__()
        self.a, self.fc, self.head = nn.Conv2d(3, 6, 8), nn.Linear(6, 5), nn.Linear(5, 2)
        self.channels = 6

    def forward(self, x):
        return self.head(self.fc(self.a(x).view(-1, self.channels)))


@net(A)
class FunctionalDepthwise(Net):
    """A depthwise convolution by function, its groups an attribute."""

    def __init__(self):
        super().__init__()
        self.channels, self.kernel = 6, nn.Parameter(torch.randn(6, 1, 3, 3))

    def middle(self, x):
        return F.conv2d(x, self.kernel, padding=1, groups=self.channels)


class ConvLSTM(nn.Module):
    """Two steps of a convolutional LSTM from a state of zeros."""

    def __init__(self):
        super().__init__()
        self.hidden = 6
        self.a, self.gates, self.head = nn.Conv2d(3, 5, 1), nn.Conv2d(11, 24, 3, padding=1), nn.Conv2d(6, 2, 1)

    def state(self, x):
        return torch.zeros(len(x), self.hidden, *x.shape[2:], dtype=x.dtype)

    def forward(self, x):
        x = self.a(x)
        hidden, cell = self.state(x), self.state(x)
        for _ in range(2):
            i, f, o, g = self.gates(torch.cat([x, hidden], 1)).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self.head(hidden)


@net({'a_(0, 5)_5': 5, 'gates_(0, 24)_24': 6})
class FixedState(ConvLSTM):
    """The state's size is an attribute."""


@net({'a_(0, 5)_5': 5, 'gates_(0, 24)_24': 6})
class FreeState(ConvLSTM):
    """The state's size is that of the layer that makes it."""

    def state(self, x):
        return x.new_zeros(len(x), self.gates.out_channels // 4, *x.shape[2:])


# values that only Python sees


@net(A)
class Asserts(Net):
    """Checks and measurements that change nothing."""

    def middle(self, x):
        assert not torch.isnan(x).any()
        assert torch.isfinite(x).all()
        self.seen = [x.norm().item(), float(x.mean()), int(x.argmax())]
        if x.max() > 1e9 or (x.abs().amax() * 2 > torch.tensor(1e9)):
            x = x + 1
        return x


@net({}, "mean reduces over the channel axis")
class UsedMean(Net):
    """The mean of all channels is subtracted from them."""

    def middle(self, x):
        return x - x.mean(1, keepdim=True)


@net({}, 'amax reduces over the channel axis')
class ReturnedMaximum(Net):
    """The largest channel is an output."""

    def forward(self, x):
        x = self.a(x)
        return self.head(x), x.amax(1)


# products with parameters


class Product(nn.Module):
    """``a`` of 6 channels, a product to 5, a linear layer."""

    shape = (6, 5)

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 6, 1), nn.Linear(5, 2)
        self.w, self.bias = nn.Parameter(torch.randn(self.shape)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return self.head(self.middle(self.a(x).flatten(2).transpose(1, 2)).relu())


PRODUCT = {**A, '_(0, 5)_5': 5}


@net(PRODUCT)
class Matmul(Product):
    """``x @ self.w``."""

    def middle(self, x):
        return x @ self.w + self.bias


@net(PRODUCT)
class Einsum(Product):
    """An einsum of an activation and a parameter."""

    def middle(self, x):
        return torch.einsum('bnc,cd->bnd', x, self.w) + self.bias


@net(PRODUCT)
class Addmm(Product):
    """A matrix product with a bias, as in GPT-2's layers."""

    def middle(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.size(-1)), self.w).view(*x.shape[:2], -1)


@net(PRODUCT)
class LinearOfAView(Product):
    """``F.linear`` with a transposed parameter."""

    def middle(self, x):
        return F.linear(x, self.w.t(), self.bias)


@net(A, 'it mixes positions, not channels')
class TokenMixing(nn.Module):
    """A linear layer along the positions of each channel."""

    def __init__(self):
        super().__init__()
        self.a, self.mix, self.head = nn.Conv2d(3, 6, 1), nn.Linear(64, 64), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x).flatten(2)
        return self.head((x + self.mix(x)).mean(2))


# order, positions, spectra


@net(A)
class Ordered(Net):
    """Sorted, picked and placed along positions."""

    def middle(self, x):
        flat = x.flatten(2)
        most, where = flat.topk(8, dim=2)
        picked = torch.gather(flat, 2, where) + most + flat.sort(dim=2)[0][:, :, :8]
        return picked.unsqueeze(-1) + flat.median(dim=2)[0][:, :, None, None]


@net(A)
class Placed(Net):
    """Values of the same channels written at constant positions."""

    def middle(self, x):
        x = x.clone()
        x[:, :, torch.tensor([0, 2])] = x[:, :, torch.tensor([1, 3])]
        return x


@net({}, 'sort orders its channels by value')
class SortedChannels(Net):
    """Channels by value."""

    def middle(self, x):
        return x.sort(dim=1)[0]


@net(A)
class Spectrum(Net):
    """A filter in the frequencies of each channel."""

    def middle(self, x):
        spectrum = torch.fft.rfft2(x, norm='ortho')
        return torch.fft.irfft2(spectrum * 0.5, s=x.shape[2:], norm='ortho')



# weights that are computed row by row


class Temporal(nn.Module):
    """A block of a temporal convolutional network, both of its layers with weight norm."""

    def __init__(self, norm):
        super().__init__()
        self.a, self.b = norm(nn.Conv1d(3, 6, 3, padding=1)), norm(nn.Conv1d(6, 5, 3, padding=1))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).relu().mean(2))


@net({'a_(0, 6)_6': 6, 'b_(0, 5)_5': 5}, shape=(2, 3, 8))
class WeightNorm(Temporal):
    """Weight norm by a hook, as torch had it first."""

    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FutureWarning)
            super().__init__(nn.utils.weight_norm)


@net({'a_(0, 6)_6': 6, 'b_(0, 5)_5': 5}, shape=(2, 3, 8))
class ParametrizedWeightNorm(Temporal):
    """Weight norm as a parametrization."""

    def __init__(self):
        super().__init__(getattr(nn.utils.parametrizations, 'weight_norm', nn.utils.weight_norm))


@net({'a_(0, 6)_6': 6, 'b_(0, 5)_5': 5}, shape=(2, 3, 8))
class MaskedWeights(Temporal):
    """Weights times a mask, as torch's own unstructured pruning leaves them."""

    def __init__(self):
        super().__init__(lambda layer: prune.random_unstructured(layer, 'weight', 0.3))


class Up(nn.Module):
    """A transposed convolution whose norms lie along its input."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv1d(3, 6, 1), nn.Conv1d(5, 2, 1)
        self.up = getattr(nn.utils.parametrizations, 'weight_norm', nn.utils.weight_norm)(nn.ConvTranspose1d(6, 5, 2))

    def forward(self, x):
        return self.head(self.up(self.a(x).relu()))


net({'a_(0, 6)_6': 6, 'up_(0, 5)_5': 5}, shape=(2, 3, 8))(Up)


@net({'a_(0, 6)_6': 6}, shape=(2, 3, 8))
class MaskedDepthwise(nn.Module):
    """A depthwise convolution with a mask."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 2, 1)
        self.deep = prune.random_unstructured(nn.Conv1d(6, 6, 3, padding=1, groups=6), 'weight', 0.3)

    def forward(self, x):
        return self.head(self.deep(self.a(x).relu()).relu())


@net({}, 'is called with a computed weight', 'its weight is computed', shape=(2, 3, 8))
class SpectralNorm(Temporal):
    """Every row of a spectral norm depends on all others."""

    def __init__(self):
        super().__init__(nn.utils.parametrizations.spectral_norm)


# filters that are standardised: a layer of which columns go holds what it has computed before


class Standardised(nn.Conv2d):
    """Mean 0 and variance 1 by a batch norm over the filters, as in Big Transfer."""

    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0,
                              eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Scaled(nn.Conv2d):
    """By a batch norm with a gain, as in networks without norms; padded by the size of the input."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x):
        side = [max((-(-size // step) - 1) * step + kernel - size, 0) for size, step, kernel in zip(
            x.shape[2:], self.stride, self.kernel_size)]
        x = F.pad(x, [side[1] // 2, side[1] - side[1] // 2, side[0] // 2, side[0] - side[0] // 2])
        weight = F.batch_norm(self.weight.view(1, self.out_channels, -1), None, None, (self.gain * self.scale).view(-1),
                              training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Explicit(nn.Conv2d):
    """By mean and deviation written out, as it was published first."""

    def forward(self, x):
        weight = self.weight
        weight = weight - weight.mean(1, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
        deviation = weight.view(weight.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(x, weight / deviation.expand_as(weight), self.bias, self.stride, self.padding, self.dilation,
                        self.groups)


class Squares(nn.Conv2d):
    """By means of products."""

    def forward(self, x):
        power = (self.weight * self.weight).mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, self.weight * torch.rsqrt(power + 1e-6), self.bias)


class EqualRate(nn.Conv2d):
    """A scale by the size of a filter, of which columns can go as they are."""

    def forward(self, x):
        return self._conv_forward(x, self.weight * 0.2, self.bias)


class FilterNet(nn.Module):
    """A stem of which rows go only, a stride, groups, a depthwise convolution, a 1 x 1 convolution."""

    layer = Standardised

    def __init__(self):
        super().__init__()
        layer = self.layer
        self.a, self.norm = layer(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c = layer(8, 8, 3, stride=2, padding=1), layer(8, 6, 3, padding=1, groups=2)
        self.deep, self.d, self.head = layer(6, 6, 3, padding=1, groups=6), layer(6, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = self.norm(self.a(x)).relu()
        x = self.d(self.deep(self.c(self.b(x).relu()).relu()).relu())
        return self.head(x.relu())


for _layer in (Standardised, Scaled, Explicit, Squares, EqualRate):
    net({'a_(0, 8)_8': 8, 'b_(0, 8)_8': 4, 'c_(0, 6)_6': 3, 'd_(0, 5)_5': 5}, shape=(2, 3, 9, 9))(
        type(f'{_layer.__name__}Filters', (FilterNet,), {'layer': _layer}))


class AcrossFilters(nn.Conv2d):
    """A deviation of all filters together."""

    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.std(), self.bias, self.stride, self.padding)


@net({}, "std reduces over the channel axis in module 'a'", "std reduces over the channel axis in module 'b'")
class WholeWeightScaled(nn.Module):
    """Every filter depends on all others."""

    def __init__(self):
        super().__init__()
        self.a, self.b = AcrossFilters(3, 6, 1), AcrossFilters(6, 2, 1)

    def forward(self, x):
        return self.b(self.a(x).relu())


class ScaledByItself(nn.Conv2d):
    """The output is scaled by a mean of each filter."""

    def forward(self, x):
        return super().forward(x) * self.weight.mean((1, 2, 3)).view(1, -1, 1, 1)


@net({'d_(0, 5)_5': 5}, "'b.weight' is used both as a layer weight and element by element")
class FilterThatScales(nn.Module):
    """A mean of filters of which no column can go, since an activation meets it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.d, self.e = nn.Conv2d(3, 6, 1), ScaledByItself(6, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(
            5, 2, 1)

    def forward(self, x):
        return self.e(self.d(self.b(self.a(x).relu()).relu()).relu())
