"""Small networks of known structure; what their units are is worked out by hand in the tests."""
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.registry import MODELS


class Residual(nn.Module):
    """``stem -> x``, ``x + conv2(conv1(x))``, linear."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1, self.bn1 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    """``c`` reads ``[a, b]``, ``d`` reads ``b``, ``e`` reads ``[c + d, a]``."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.bn = nn.BatchNorm2d(9)
        self.c, self.d = nn.Conv2d(9, 6, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.e = nn.Conv2d(10, 4, 1)

    def forward(self, x):
        a, b = torch.tanh(self.a(x)), torch.tanh(self.b(x))
        y = F.relu(self.c(self.bn(torch.cat([a, b], 1)))) + torch.sigmoid(self.d(b))
        return self.e(torch.cat([y, a], 1)).mean((2, 3))


class Depthwise(nn.Module):
    """``stem -> dw1`` (one output a channel) ``-> dw2`` (two outputs a channel, stride 2) ``-> pw -> fc``."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.dw1 = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.dw2, self.bn2 = nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=4, bias=False), nn.BatchNorm2d(8)
        self.pw = nn.Conv2d(8, 5, 1)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu6(self.bn0(self.stem(x)))
        x = torch.tanh(self.dw1(x))
        return self.fc(F.relu(self.pw(torch.sigmoid(self.bn2(self.dw2(x))))).mean((2, 3)))


class Grouped(nn.Module):
    """``stem -> g`` (two groups) ``-> head``."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.g = nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.g(F.relu(self.bn(self.stem(x)))))).mean((2, 3))


class Shared(nn.Module):
    """``conv`` runs three times, twice at the full size and once at half of it."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 3, padding=1)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = x + torch.tanh(self.conv(x))
        x = F.max_pool2d(x + torch.tanh(self.conv(x)), 2)
        return self.fc((x + torch.tanh(self.conv(x))).mean((2, 3)))


class SharedHead(nn.Module):
    """One head on two levels of a pyramid, as detectors have it."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.tower, self.cls = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return [self.cls(torch.tanh(self.tower(torch.tanh(level(x))))) for level in (self.low, self.high)]


class Flatten(nn.Module):
    """``conv`` of 6x6, pooled to 3x3, flattened into ``fc1 -> fc2``."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc1, self.fc2 = nn.Linear(36, 7), nn.Linear(7, 5)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.bn(self.conv(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Tokens(nn.Module):
    """A patch embedding into nine tokens, a residual MLP, a head on their mean."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, stride=2)
        self.fc1, self.fc2, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x.mean(1))


class TwoBatches(nn.Module):
    """``whole`` sees the batch, ``part`` the halves of every image as a batch of twice the size (like regions)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.whole, self.part = nn.Conv2d(5, 2, 1), nn.Conv2d(5, 2, 3, padding=1)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        return [self.whole(x), self.part(torch.cat([x[..., :3], x[..., 3:]]))]


class Optional(nn.Module):
    """``side`` runs only while ``use_side`` is set."""

    def __init__(self):
        super().__init__()
        self.use_side = True
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.main, self.side = nn.Conv2d(5, 2, 1), nn.Conv2d(5, 2, 3, padding=1)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        return self.main(x) + self.side(x) if self.use_side else self.main(x)


class Everything(nn.Module):
    """Residual add, grouped, depthwise and shared convs, a concat, and linear layers behind a flatten; 8x8 images."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv1, self.bn1 = nn.Conv2d(12, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.conv2, self.bn2 = nn.Conv2d(10, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.group, self.bn3 = nn.Conv2d(12, 16, 3, padding=1, stride=2, groups=2), nn.BatchNorm2d(16)
        self.expand, self.bn4 = nn.Conv2d(16, 20, 1, bias=False), nn.BatchNorm2d(20)
        self.dw, self.bn5 = nn.Conv2d(20, 20, 3, padding=1, groups=20, bias=False), nn.BatchNorm2d(20)
        self.project, self.bn6 = nn.Conv2d(20, 9, 1), nn.BatchNorm2d(9)
        self.shared = nn.Conv2d(9, 9, 3, padding=1)
        self.mix, self.bn7 = nn.Conv2d(25, 11, 1), nn.BatchNorm2d(11)
        self.fc1, self.fc2 = nn.Linear(44, 14), nn.Linear(14, 5)

    def forward(self, x):
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)
        y = F.relu(self.bn3(self.group(x)))
        z = F.relu6(self.bn5(self.dw(F.relu6(self.bn4(self.expand(y))))))
        z = self.bn6(self.project(z))
        z = z + torch.tanh(self.shared(z))
        z = z + torch.tanh(self.shared(z))
        x = F.relu(self.bn7(self.mix(torch.cat([y, z], 1))))
        return self.fc2(torch.tanh(self.fc1(F.max_pool2d(x, 2).flatten(1))))


@MODELS.register_module()
class ToyClassifier(BaseModel):
    """A network as OpenMMLab models are: ``forward(inputs, data_samples, mode)``, cross entropy as its loss."""

    def __init__(self, net, data_preprocessor=None, init_cfg=None):
        super().__init__(data_preprocessor, init_cfg)
        self.net = globals()[net]() if isinstance(net, str) else net

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.net(inputs)
        return dict(loss=F.cross_entropy(out, data_samples)) if mode == 'loss' else out


def algorithm_of(model, interval=1, normalization_type='none', mutate_linear=True, size=8):
    """Build the pruning algorithm of a toy net for square images of the size."""
    return GroupFisherAlgorithm(model, mutator_cfg(normalization_type, mutate_linear, size), interval)


def mutator_cfg(normalization_type='none', mutate_linear=True, size=8):
    return dict(type='GroupFisherChannelMutator',
                channel_unit_cfg=dict(type='GroupFisherChannelUnit', normalization_type=normalization_type,
                                      mutate_linear=mutate_linear),
                demo_input=dict(type='DemoInput', input_shape=(1, 3, size, size)))


def randomise(model):
    """Give norms random weights, biases and statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model
