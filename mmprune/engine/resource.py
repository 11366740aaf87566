"""What a prune run follows and stops at: a cost of the structure, or its time."""
from typing import Mapping, Optional

import numpy as np

from ..latency.table import LatencyTable
from ..pruning.search import share_of_cost
from ..units.complexity import COSTS, LATENCY
from ..units.mutator import ChannelMutator

Masks = Mapping[str, np.ndarray]
RESOURCES = (*COSTS, LATENCY)


class Resource:
    """A cost of a model's structure: ``flops``, ``params`` or ``acts``.

    Args:
        name (str): Which.
        mutator (ChannelMutator): Of the model.
    """

    def __init__(self, name: str, mutator: ChannelMutator) -> None:
        self.name, self.mutator = name, mutator

    def share(self, masks: Optional[Masks] = None) -> float:
        """Return the share of the dense cost of the present structure, or of one with some masks."""
        return share_of_cost(self.mutator, masks or {}, self.name)


class Time(Resource):
    """The time of a model by its latency table.

    Args:
        mutator (ChannelMutator): Of the model.
        table (LatencyTable): Of the model.
        correction (float): What the table's milliseconds are multiplied by, as measured.
    """

    def __init__(self, mutator: ChannelMutator, table: LatencyTable, correction: float = 1.0) -> None:
        super().__init__(LATENCY, mutator)
        self.table, self.correction = table, correction

    def share(self, masks: Optional[Masks] = None) -> float:
        """Return the share of the dense time."""
        counts = {**self.mutator.sets, **{name: int(mask.sum()) for name, mask in (masks or {}).items()}}
        return self.correction * self.table.predict(counts) / self.table.dense_total_ms
