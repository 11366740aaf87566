"""Criteria that look at activation times gradient, at the inputs of the layers that read a unit."""
from collections import Counter
from typing import Iterable, List, Optional, Set

import torch
from torch import Tensor, nn

from ..group_fisher.ops import GroupFisherMixin
from ..group_fisher.taps import TapRecorder
from ..units.consumers import Consumers
from ..units.layer import layer_reading
from ..units.unit import ChannelUnit
from .affine_norms import affine_norms
from .calibration import Calibration, backward, without_gradients
from .criterion import ADVICE, Criterion


class TappedCriterion(Criterion):
    """A sum over batches of a function of ``x * dL/dx``, which taps record sample by sample."""

    needs_data = needs_loss = True

    def accumulated(self, recorded: Tensor) -> Tensor:
        """Return ``Tensor[sets]``, what a batch adds to the total.

        Args:
            recorded (Tensor[N, sets]): ``sum over layers, calls, positions of x * dL/dx`` of the batch's loss.
        """
        raise NotImplementedError

    def observe(self, calibration: Calibration) -> None:
        """Run all batches forward and backward with taps on."""
        consumers = Consumers(self.mutator)
        consumers.layers = consumers.tappable
        tapped_before = {name for name, module in consumers.layers.items() if isinstance(module, GroupFisherMixin)}
        taps = TapRecorder(consumers)
        self.start, self.samples = consumers.start, 0
        self.reached: Set[str] = set()
        total = torch.zeros(consumers.total, dtype=torch.float64)
        try:
            with torch.enable_grad(), affine_norms(self.mutator.model), \
                    without_gradients(self._idle_parameters(taps.layers.values())):
                for batch in calibration.batches:
                    taps.record(True)
                    backward(calibration.loss(batch), self.mutator.model)
                    found = taps.take()
                    self.reached.update(layer for layer, _ in found)
                    for recorded in taps.per_set(found, torch.float64):
                        total += self.accumulated(recorded).cpu()
                        self.samples += len(recorded)
        finally:
            taps.record(False)
            for name in tapped_before:
                taps.layers.pop(name, None)
            taps.remove()
        self.total = total

    def _idle_parameters(self, tapped: Iterable[nn.Module]) -> List[nn.Parameter]:
        """Return the parameters of tapped layers, of which no gradient is needed: a tap's output has one without.

        What other modules use as well keeps its own, such as an embedding's weight: a checkpoint that keeps no graph
        runs backward only where its input has a gradient.
        """
        uses = Counter(id(parameter) for module in self.mutator.model.modules()
                       for parameter in module._parameters.values())
        return [parameter for module in tapped for parameter in module.parameters(recurse=False)
                if uses[id(parameter)] == 1]

    def unseen(self, unit: ChannelUnit) -> Optional[str]:
        """Return why no gradient could be recorded where layers read the unit, None where it could."""
        reason = super().unseen(unit)
        layers = [layer_reading(self.mutator.model, member.axis.tensor) for member in unit.channels.consumers]
        if reason is None and not any(layer is not None and layer[0] in self.reached for layer in layers):
            return ('no gradient of the loss arrives where layers read it (torch.no_grad, detach, or they did not run '
                    'on the data)')
        return reason

    def missing(self, unit: ChannelUnit) -> str:
        """Return why no gradient could be recorded for the unit."""
        return f'{self.unseen(unit)}; {ADVICE}'

    def of_unit(self, unit: ChannelUnit) -> Tensor:
        """Return ``Tensor[C]``, the totals of the present sets of a unit."""
        start = self.start[unit.name]
        return self.total[start:start + len(unit.kept)][torch.from_numpy(unit.kept)]
