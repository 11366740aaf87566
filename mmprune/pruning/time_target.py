"""What a plan needs to know of a runtime: its block; for a target in time a table, too, and a loop around the plan."""
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple

from mmengine.logging import print_log

from ..latency.block import blocks_of_align
from ..latency.meter import Meter
from ..latency.table import LatencyTable
from .budgets import share_of_time
from .search import Chosen
from .target import PruningTarget

#: Relative distance from what is asked at which the loop ends, and corrections at most.
NEAR, CORRECTIONS = 0.02, 2
ShareOf = Callable[[Mapping[str, int]], float]


class Attempt(NamedTuple):
    """One turn of the loop, in milliseconds of the whole model.

    Attributes:
        asked, predicted, measured (float): ``measured`` is of a machine on which the dense model takes ``dense``.
        dense (float): The dense model in the table.
    """

    asked: float
    predicted: float
    measured: float
    dense: float

    def __str__(self) -> str:
        return (f'asked {self.asked:.2f} ms, predicted {self.predicted:.2f}, measured {self.measured:.2f} '
                f'({self.measured / self.asked - 1:+.1%}; {self.measured / self.dense:.3f} of the dense '
                f'{self.dense:.2f} ms)')


class MeasuredBlock:
    """The block of a runtime, for a target that is no time: all that has to be measured for it.

    Args:
        block (int): Channels that the runtime computes together.
    """

    table: Optional[LatencyTable] = None

    def __init__(self, block: int) -> None:
        self.block = block

    def blocks(self, target: PruningTarget) -> List[int]:
        """Return the blocks in which channels may go, the wanted one first: the target's own, else the runtime's."""
        return blocks_of_align(target.align, self.block, target.needs_latency)


class TimeTarget(MeasuredBlock):
    """Plans for a target in time.

    Args:
        table (LatencyTable): Of the model.
        share_of (Callable, optional): Measures what share of the dense time a structure takes, unit name -> sets;
            without it the table's word is taken.
    """

    table: LatencyTable

    def __init__(self, table: LatencyTable, share_of: Optional[ShareOf] = None) -> None:
        super().__init__(table.block)
        self.table, self.share_of = table, share_of

    @classmethod
    def measured(cls, meter: Meter) -> 'TimeTarget':
        """Return one whose table is read or measured now."""
        return cls(meter.table(), (lambda counts: meter.time(counts).share) if meter.is_here else None)

    def close(self, target: PruningTarget, choose: Callable[[float], Chosen],
              progress: float = 1.0) -> Tuple[Chosen, List[Attempt]]:
        """Choose, measure beside the dense model, and choose again with the table corrected, twice at most.

        Args:
            target (PruningTarget): A time.
            choose (Callable): Chooses for a factor by which the table's milliseconds are multiplied.
            progress (float): Share of the way; only the last step is measured.

        Returns:
            tuple: The choice that comes nearest to what is asked, and all turns of the loop.
        """
        self.table.check_trusted()
        asked = share_of_time(target, self.table) * self.table.dense_total_ms
        correction = 1.0
        found: List[Tuple[float, int, Chosen, Attempt]] = []
        if self.share_of is None or progress < 1:
            return choose(correction), []
        for _ in range(1 + CORRECTIONS):
            chosen = choose(correction)
            counts = {name: int(mask.sum()) for name, mask in chosen.masks.items()}
            raw = self.table.predict(counts)
            measured = self.table.total_ms(self.share_of(counts))
            attempt = Attempt(asked, correction * raw, measured, self.table.dense_total_ms)
            print_log(str(attempt), logger='current')
            found.append((abs(measured / asked - 1), len(found), chosen, attempt))
            if found[-1][0] <= NEAR:
                break
            correction = measured / raw
        best = min(found, key=lambda one: one[:2])
        return best[2], [one[3] for one in found]
