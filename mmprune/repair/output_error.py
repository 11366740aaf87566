"""How far the outputs of a model are from those that are wanted."""
from typing import Any, Dict, Sequence

import torch
from torch import Tensor

#: An output whose spread is a smaller share of its squares is a constant.
CONSTANT = 1e-9


class OutputError:
    """The squared error of an output ``Tensor[N, C, *]`` over its spread, added up batch by batch."""

    def __init__(self) -> None:
        self.size = 0
        self._gap, self._squares, self._sums = 0.0, 0.0, torch.zeros(())

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Add what a model returns for a batch, and what it shall return."""
        channels = theirs.double().reshape(*(theirs.shape[:2] if theirs.dim() > 1 else (1, 1)), -1)
        self.size += theirs.numel()
        self._gap += float((ours - theirs).double().square().sum())
        self._squares += float(channels.square().sum())
        self._sums = self._sums.to(channels.device) + channels.sum((0, 2))

    def relative(self) -> float:
        """Return the error over the spread; what hardly varies counts by its squares."""
        spread = self._squares - float(self._sums.square().sum()) * len(self._sums) / self.size
        return self._gap / max(spread, CONSTANT * self._squares, 1e-30)


class OutputErrors:
    """The errors of all outputs of a model, added up batch by batch."""

    def __init__(self) -> None:
        self._found: Dict[Any, OutputError] = {}

    def add(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
        """Add the outputs for a batch, and those that are wanted, in the same order."""
        for place, (found, wanted) in enumerate(zip(ours, theirs)):
            if wanted.is_floating_point() and found.shape == wanted.shape and wanted.numel():
                self._found.setdefault((place, wanted.shape[1:2]), OutputError()).add(found, wanted)

    def relative(self) -> float:
        """Return the squared difference of each output over its spread about the means of its channels.

        It is the mean over the outputs by their sizes: a detector's boxes count in their own units beside its scores,
        and the levels of a pyramid by their positions.
        """
        return sum(one.relative() * one.size for one in self._found.values()) / max(1, sum(
            one.size for one in self._found.values()))
