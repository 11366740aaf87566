"""Does the masked dense model compute in every layer what the cut model computes?"""
from typing import Callable, List, Optional, Tuple

from torch import Tensor

from .equivalence import relative_difference
from .layer_outputs import LayerOutput, Run


class DiffersError(Exception):
    """A layer of the masked dense model computes something else than the cut model; by how much, and its name."""


class Comparison:
    """Compares the layers of the masked dense model with those of a cut one while it runs.

    Args:
        after (Run): What the cut model has computed.
        kept_rows (Callable): ``kept_rows(layer, sums)`` returns those of the channels that the cut model has.
        tolerance (float): Relative difference that is rounding.

    Attributes:
        before (Run): What the dense model has computed so far.
    """

    def __init__(self, after: Run, kept_rows: Callable[[str, Tensor], Tensor], tolerance: float) -> None:
        self.after, self.kept_rows, self.tolerance = after, kept_rows, tolerance
        self.before, self.other_layers = Run([], []), False

    def of(self, before: Run) -> Tuple[float, Optional[str]]:
        """Compare a run of the dense model that has ended."""
        try:
            for layer in before.layers:
                self.look(layer)
        except DiffersError as found:
            return found.args  # type: ignore[return-value]
        return self.at_end(before.outputs)

    def look(self, dense: LayerOutput) -> None:
        """Compare the next layer.

        Raises:
            DiffersError: It computes something else.
        """
        place = len(self.before.layers)
        self.before.layers.append(dense)
        if self.other_layers or place >= len(self.after.layers):  # the outputs tell
            return
        cut = self.after.layers[place]
        if cut.layer != dense.layer:
            self.other_layers = True
        elif cut.shape == dense.shape:  # else it mixes the positions of channels that were cut; the outputs tell
            change = relative_difference([self.kept_rows(cut.layer, dense.sums)], [cut.sums])
            if not change < self.tolerance:
                raise DiffersError(change, cut.layer)

    def at_end(self, outputs: List[Tensor]) -> Tuple[float, None]:
        """Return by how much the outputs differ; 0 for less than the tolerance, inf if the cut model runs others."""
        self.before = Run(outputs, self.before.layers)
        if self.other_layers or len(self.before.layers) < len(self.after.layers):
            return float('inf'), None
        change = relative_difference(outputs, self.after.outputs)
        return (0.0 if change < self.tolerance else change), None
