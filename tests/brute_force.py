"""Group Fisher information by brute force: autograd at every call of every consumer, units written by hand.

The input of every call of every consumer is a copy of its own, so that ``torch.autograd.grad`` gives the gradient
through that call alone. With ``g = sum over positions of x * dL/dx``, a unit's ``F[c]`` is the sum over batches and
samples of ``(sum over consumers of that batch, their calls, the columns of c, of g)^2``. Nothing comes from the graph
or the taps.
"""
import torch
from hand_units import loss_of, relative_error

#: What reads regions; every other consumer reads the images.
ON_REGIONS = ('fc', 'box.')


def x_times_gradient(x, gradient, linear):
    """Return ``Tensor[samples, channels]``: sums over positions; channels of linear layers and queries are last."""
    product = x.detach() * gradient
    if x.dim() == 2:
        return product
    return product.flatten(1, -2).sum(1) if linear else product.flatten(2).sum(2)


class BruteForce:
    """Copies of the input of every call of every consumer, and what their gradients add to the units."""

    def __init__(self, model, units):
        self.units, self.calls = units, []
        self.fisher = {name: torch.zeros(unit.classes, dtype=torch.float64) for name, unit in units.items()}
        self.modules = dict(model.named_modules())
        for layer in {layer for unit in units.values() for layer in unit.consumers}:
            if hasattr(self.modules[layer], 'conv_offset'):
                self._split(layer)
            else:
                self.modules[layer].register_forward_pre_hook(lambda _, args, layer=layer: (self._own(layer, args[0]),))

    def _own(self, layer, x):
        own = x.clone() if x.requires_grad else x.clone().requires_grad_()  # what reads it may be frozen
        self.calls.append((layer, own))
        return own

    def _split(self, layer):
        """The offsets of a deformable convolution read the same input; here they get a copy of their own."""
        from mmcv import ops
        module = self.modules[layer]

        def forward(x):
            offset = module.conv_offset(x)
            geometry = module.stride, module.padding, module.dilation, module.groups, module.deform_groups
            own = self._own(layer, x)
            if isinstance(module, ops.DeformConv2d):
                return ops.deform_conv2d(own, offset, module.weight, *geometry, False, module.im2col_step)
            y, x, mask = offset.chunk(3, 1)
            return ops.modulated_deform_conv2d(own, torch.cat((y, x), 1), mask.sigmoid(), module.weight, module.bias,
                                               *geometry)

        module.forward = forward

    def backward(self, loss):
        gradients = torch.autograd.grad(loss, [x for _, x in self.calls], allow_unused=True)
        for name, unit in self.units.items():
            batches = {}
            for (layer, x), gradient in zip(self.calls, gradients):
                if layer in unit.consumers and gradient is not None:
                    g = x_times_gradient(x, gradient, self.modules[layer].weight.dim() < 3)
                    g = g[:, torch.tensor(unit.consumers[layer])].sum(2)
                    batch = 'regions' if layer.startswith(ON_REGIONS) else 'images'
                    batches[batch] = batches.get(batch, 0) + g
            for g in batches.values():
                self.fisher[name] += g.square().sum(0)
        self.calls = []


def iterate(mutator, brute, ours, dense, x):
    """Run one iteration of both."""
    mutator.taps.record(True)
    loss_of(ours(x)).backward()
    mutator.accumulate(mutator.taps.take())
    mutator.taps.record(False)
    brute.backward(loss_of(dense(x)))


def worst_of(mutator, brute, kind='none'):
    scores = mutator.scores()
    assert set(scores) == set(brute.units)
    return max(relative_error(scores[name], brute.fisher[name] / unit.cost(kind, None))
               for name, unit in brute.units.items())
