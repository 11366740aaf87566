"""By how much the outputs of a model change on some batches where modules of it are changed for a while."""
from typing import Any, Collection, List, Optional, Tuple

from torch import Tensor, nn

from ..graph.nested import output_tensors
from ..graph.watching import watched
from ..random_state import seeded
from ..repair.output_error import OutputErrors
from ..repair.tails import Tails
from ..units.mutator import ChannelMutator
from .calibration import Calibration

#: Bytes of the outputs that are compared; of maps of scores, fewer images are judged.
MOST_OUTPUTS = 5e8
#: Of what a model, or its loss, draws at random in each run.
SEED = 0


class OutputChange:
    """Says by how much a model's outputs have changed on some batches.

    Args:
        mutator (ChannelMutator): Of the model.
        calibration (Calibration): The batches, and what runs the model on one.
    """

    def __init__(self, mutator: ChannelMutator, calibration: Calibration) -> None:
        self.model, self.loss, batches = mutator.model, calibration.loss, calibration.batches
        self.tails = Tails(self.model, batches, self._run, few_of(batches[0]))
        self.wanted: List[List[Tensor]] = []
        self.before, room = 0.0, MOST_OUTPUTS
        for loss, out in self.tails.first():
            self.before += loss
            self.wanted.append([tensor.clone() for tensor in output_tensors(out)])
            room -= sum(tensor.numel() * tensor.element_size() for tensor in self.wanted[-1])
            if room <= 0:
                break
        self.by_loss = not any(tensor.dim() and tensor.is_floating_point() for out in self.wanted for tensor in out)

    def _run(self, batch: Any) -> Tuple[float, Any]:
        """Return the loss of a batch, and what the model returns."""
        outputs: List[Any] = []

        def take(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            outputs.append(out)

        with seeded([SEED]), watched([('', self.model)], after=take):  # images are mixed alike in each run
            loss = float(self.loss(batch))
        return loss, outputs[0] if outputs else None

    def error(self, changed: Collection[str]) -> float:
        """Return the error of the outputs, or by which share the losses rise, now that some modules have changed."""
        found, after = OutputErrors(), 0.0
        for number, wanted in enumerate(self.wanted):
            loss, out = self.tails.outputs(number, changed)
            after += loss
            found.add(output_tensors(out), wanted)
        return (after - self.before) / max(abs(self.before), 1e-30) if self.by_loss else found.relative()


def few_of(batch: Any) -> Optional[Any]:
    """Return the first two samples of a batch of tensors; None where it is something else."""
    if isinstance(batch, Tensor) and batch.dim():
        return batch[:2]
    if isinstance(batch, (tuple, list)) and batch and all(isinstance(part, Tensor) and part.dim() for part in batch) \
            and len({len(part) for part in batch}) == 1:
        return [part[:2] for part in batch]
    return None
