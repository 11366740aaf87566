"""Criteria that look at activation times gradient, where the layers that read a unit get it."""
import torch
from torch import Tensor

from .. import ops
from ..consumers import Consumers
from ..taps import TapRecorder
from ..unit import ChannelUnit
from .criterion import Calibration, Criterion


class TappedCriterion(Criterion):
    """A sum over batches of a function of ``x * dL/dx``, sample by sample."""

    needs_data = True

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
                    torch.autograd.backward(loss, inputs=[stat for module in taps.layers.values()
                                                          for stat in module.stats])  # type: ignore[union-attr]
                    for recorded in taps.per_class(taps.take(), torch.float64):
                        total += self.accumulated(recorded).cpu()
                        self.samples += len(recorded)
        finally:
            taps.record(False)
            for name in there_already:
                taps.layers.pop(name)
            taps.remove()
        self.total = total

    def of_unit(self, unit: ChannelUnit) -> Tensor:
        """Return ``Tensor[C]``, what the present classes of a unit have accumulated."""
        start = self.start[unit.name]
        return self.total[start:start + len(unit.kept)][torch.from_numpy(unit.kept)]
