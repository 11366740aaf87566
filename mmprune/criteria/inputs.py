"""The inputs of the layers that read a unit, and criteria that are a mean over them."""
from typing import Any, Callable, ContextManager, Dict, List

from torch import Tensor, nn

from ..graph.channels import Member
from ..graph.idle import CONV_OR_LINEAR
from ..graph.watching import watched
from ..repair.windows import channels_first
from ..units.consumers import Consumers
from ..units.layer import layer_reading
from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .criterion import ADVICE, Criterion


class InputStatistic(Criterion):
    """A mean over the inputs of the layers that read a unit.

    These are the channels as the network uses them: after their norms, activations and poolings. ``combine`` is over
    the layers that read a unit.
    """

    needs_data = True

    def statistic(self, x: Tensor) -> Tensor:
        """Return ``Tensor[C]``, a mean over samples and positions, of the inputs ``Tensor[N, C, *]`` of a layer."""
        raise NotImplementedError

    def observe(self, calibration: Calibration) -> None:
        """Take the means over all samples of all batches."""
        self.consumers = Consumers(self.mutator)
        sums: Dict[str, Tensor] = {}
        counts: Dict[str, int] = {}

        def see(layer: str, x: Tensor) -> None:
            total = self.statistic(x).double() * len(x)  # half precision ends at 65504
            sums[layer] = sums[layer] + total if layer in sums else total
            counts[layer] = counts.get(layer, 0) + len(x)

        with inputs_seen(self.consumers.tappable, see):
            for batch in calibration.batches:
                calibration.loss(batch)
        self.means = {layer: sums[layer] / counts[layer] for layer in sums}

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the means of each layer that reads the unit."""
        if self.unseen(unit):
            return []
        read = [layer_reading(self.mutator.model, member.axis.tensor) for member in unit.channels.consumers]
        layers = dict.fromkeys(layer[0] for layer in read if layer is not None)
        return [self.consumers.mean_by_set(layer, self.means[layer], unit) for layer in layers if layer in self.means]

    def missing(self, unit: ChannelUnit) -> str:
        """Return why no layer that reads the unit was recorded."""
        return f'{self.unseen(unit) or "no layer that reads it ran on the data"}; {ADVICE}'


def reading(unit: ChannelUnit) -> List[Member]:
    """Return the members of a unit that are columns of the weight of a layer which adds its channels up."""
    return [member for member in unit.channels.consumers
            if member.axis.role == 'in' and member.axis.tensor.rpartition('.')[2] == 'weight']


def reads_seen(mutator: ChannelMutator, see: Callable[..., None]) -> ContextManager[None]:
    """Call a function with every call of a layer that reads units and adds up their channels.

    Args:
        mutator (ChannelMutator): Of the units.
        see (Callable): Called as ``see(layer, module, x, args, kwargs)``, with what the module gets beside its input.
            Several modules may share the weight of a layer. Empty inputs are left out.
    """
    names = {id(mutator.model.get_submodule(name).weight): name
             for name in dict.fromkeys(member.axis.layer for unit in mutator.units for member in reading(unit))}
    found = [(names[weight], module) for weight, module in (
        (id(getattr(module, 'weight', None)), module) for module in mutator.model.modules()) if weight in names
        and type(module) is type(mutator.model.get_submodule(names[weight]))]

    def enter(layer: str, module: Any, args: Any, kwargs: Any) -> None:
        name = None if args else next(iter(kwargs))
        x = (args[0] if name is None else kwargs[name]).detach()
        if isinstance(module, CONV_OR_LINEAR) and x.dim() < module.weight.dim():
            x = x.unsqueeze(0)
        if x.numel():
            see(layer, module, x, args[1:], {key: value for key, value in kwargs.items() if key != name})

    return watched(found, before=enter)


def inputs_seen(layers: Dict[str, nn.Module], see: Callable[[str, Tensor], None]) -> ContextManager[None]:
    """Call ``see(layer, Tensor[N, C, *])`` with the input of every call of the layers."""

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        see(name, channels_first(module, (args or tuple(kwargs.values()))[0].detach()))

    return watched(layers.items(), before=enter)
