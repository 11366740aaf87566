"""Criteria that look at activation times gradient, where the layers that read a unit get it."""
from typing import Optional

import torch
from torch import Tensor

from .. import ops
from ..consumers import Consumers
from ..taps import TapRecorder, untapped_weight
from ..unit import ChannelUnit
from .criterion import Calibration, Criterion


class TappedCriterion(Criterion):
    """A sum over batches of a function of ``x * dL/dx``, sample by sample."""

    needs_data = needs_loss = True

    def accumulated(self, recorded: Tensor) -> Tensor:
        """Return ``Tensor[classes]``, what a batch adds.

        Args:
            recorded (Tensor[N, classes]): ``sum over layers, calls, positions of x * dL/dx`` of the batch's loss.
        """
        raise NotImplementedError

    def observe(self, calibration: Calibration) -> None:
        """Run all batches forward and backward with taps on."""
        consumers = Consumers(self.mutator)
        consumers.layers = {name: module for name, module in consumers.layers.items() if ops.is_tappable(module)}
        there_already = {name for name, module in consumers.layers.items() if isinstance(module, ops.GroupFisherMixin)}
        taps = TapRecorder(consumers)
        self.start, self.samples = consumers.start, 0
        total = torch.zeros(consumers.total, dtype=torch.float64)
        try:
            with torch.enable_grad():
                for batch in calibration.batches:
                    taps.record(True)
                    loss = calibration.loss(batch)
                    stats = [stat for module in taps.layers.values()
                             for stat in module.stats]  # type: ignore[union-attr]
                    if stats:
                        torch.autograd.backward(loss, inputs=stats)
                    for recorded in taps.per_class(taps.take(), torch.float64):
                        total += self.accumulated(recorded).cpu()
                        self.samples += len(recorded)
        finally:
            taps.record(False)
            for name in there_already:
                taps.layers.pop(name, None)
            taps.remove()
        self.total = total

    def unseen(self, unit: ChannelUnit) -> Optional[str]:
        """Return a weight that reads the unit where nothing can be recorded, None where there is none."""
        return untapped_weight(self.mutator.model, unit.channels, self.mutator.complexity.graph.calls)

    def missing(self, unit: ChannelUnit) -> str:
        """Say which weight reads the unit unseen."""
        return (f'{self.unseen(unit)!r} reads it outside a conv or linear module, where nothing can be recorded; leave '
                'the unit out (exclude) or take a criterion of weights')

    def of_unit(self, unit: ChannelUnit) -> Tensor:
        """Return ``Tensor[C]``, what the present classes of a unit have accumulated."""
        start = self.start[unit.name]
        return self.total[start:start + len(unit.kept)][torch.from_numpy(unit.kept)]
