"""Small networks for criteria of least squares, and everything that their layers read, computed another way."""
import numpy as np
import torch
import toy_nets
from torch import nn

from mmprune.criteria.inputs import reading
from mmprune.units.mutator import ChannelMutator

#: More than any layer here has, so that every output is a sample.
ALL = 10**6


class Pair(nn.Module):
    """``layer`` reads ``tanh(stem(x))``."""

    def __init__(self, layer):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, layer.in_channels, 3, padding=1), layer

    def forward(self, x):
        return self.layer(torch.tanh(self.stem(x)))


LAYERS = {
    '1x1': lambda: nn.Conv2d(5, 3, 1), '3x3 padded': lambda: nn.Conv2d(5, 3, 3, padding=1),
    'strided': lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1),
    'dilated': lambda: nn.Conv2d(4, 3, 3, padding=2, dilation=2, padding_mode='reflect'),
    'same': lambda: nn.Conv2d(4, 3, (3, 2), padding='same', dilation=(1, 2)),
    'grouped': lambda: nn.Conv2d(8, 6, 3, padding=1, groups=2)}
NETS = {**{name: (lambda layer=layer: Pair(layer())) for name, layer in LAYERS.items()},
        **{name: getattr(toy_nets, name) for name in ('Residual', 'Concat', 'Depthwise', 'Grouped', 'Shared',
                                                      'SharedHead', 'Tokens', 'Flatten')}}


def prepared(net, size=6):
    torch.manual_seed(0)
    model = toy_nets.randomise(net()).eval()
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)))
    mutator.prepare(model)
    return model.double(), mutator


def batches_of(images=50, size=6):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, 3, size, size, generator=generator, dtype=torch.float64) for _ in range(2)]


def read_by(module, x):
    """Return ``[groups, K, samples]``: the outputs that one-hot weights give."""
    plain = type(module)(**{key: getattr(module, key) for key in ('in_features', 'out_features')}) if isinstance(
        module, nn.Linear) else type(module)(
            module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,
            module.groups, padding_mode=module.padding_mode)
    plain, weight, found = plain.double(), module.weight, []
    groups, axis = getattr(module, 'groups', 1), -1 if isinstance(module, nn.Linear) else 1
    nn.init.zeros_(plain.bias)
    for place in range(weight[0].numel()):
        plain.weight.data = torch.zeros_like(weight)
        plain.weight.data.flatten(1)[:, place] = 1
        out = plain(x).movedim(axis, 0)
        found.append(out[::len(out) // groups].reshape(groups, -1))
    return torch.stack(found, 1).detach().numpy()


def samples_of(mutator, batches):
    """Return convolution or linear layer -> all that it reads, over all calls and batches."""
    layers = {member.axis.layer for unit in mutator.units for member in reading(unit)
              if isinstance(mutator.model.get_submodule(member.axis.layer), (nn.Conv2d, nn.Linear))}
    seen = {layer: [] for layer in layers}
    handles = [mutator.model.get_submodule(layer).register_forward_pre_hook(
        lambda module, args, layer=layer: seen[layer].append(args[0].detach())) for layer in layers]
    for batch in batches:
        mutator.model(batch)
    for handle in handles:
        handle.remove()
    return {layer: np.concatenate([read_by(mutator.model.get_submodule(layer), x) for x in inputs], 2)
            for layer, inputs in seen.items()}
