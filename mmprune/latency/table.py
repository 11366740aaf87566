"""The latency table of a model: what every node of its exported network takes at any widths of its units."""
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..arguments import UserError
from ..files import read_json, write_json
from .channel_sum import ChannelSum
from .cost_terms import CostTerms
from .node_law import NodeLaw
from .widths import Cost

#: Of a file; a table of another format is measured anew, and one of the first, which knew no heads and nothing of what
#: layers of transformers read, where it is of a transformer.
FORMAT, FIRST_FORMAT = 2, 1
#: Largest error on networks that a table has not seen with which it may choose widths.
LARGEST_ERROR = 0.1


class LatencyTableError(UserError):
    """A table cannot be read, is of another model or runtime, or does not predict well enough."""


@dataclass
class Calibration:
    """From the sum of the nodes to the time of a run: ``offset + scale * sum``.

    Attributes:
        offset, scale (float): The line, in milliseconds, fitted to whole runs without the profiler.
        r2 (float): Explained variance of networks that the table had not seen when this was measured.
        largest_error (float): Largest relative error on those of them that took 0.4 to 0.8 of the dense time.
    """

    offset: float
    scale: float
    r2: float
    largest_error: float


@dataclass
class LatencyTable:
    """Predicts the milliseconds of a model from the widths of its units.

    Attributes:
        runtime (dict): Where it was measured: runtime, version, threads, CPU.
        input_shape (tuple[int]): Of the network.
        units (dict[str, int]): Unit name -> sets of the dense model, by which a table knows its model.
        block (int): Channels that the runtime computes together; those of a unit count in multiples of it.
        dense_ms (float): Median run of the dense network.
        laws (list[NodeLaw]): Of all nodes that run on every width.
        calibration (Calibration): To whole runs.
        networks (int): How many networks were measured.
        rest_ms (float): What the device spends on one input outside the network, such as decoding and NMS.
    """

    runtime: Dict[str, Any]
    input_shape: Tuple[int, ...]
    units: Dict[str, int]
    block: int
    dense_ms: float
    laws: List[NodeLaw]
    calibration: Calibration
    networks: int = 0
    rest_ms: float = 0.0

    @property
    def dense_total_ms(self) -> float:
        """Milliseconds of the dense model, with what is outside of the network."""
        return self.total_ms(1.0)

    def total_ms(self, share: float) -> float:
        """Return milliseconds of a model whose network takes a share of the dense network's time."""
        return share * self.dense_ms + self.rest_ms

    @property
    def where(self) -> str:
        """Where it was measured, for messages."""
        threads = self.runtime.get('threads', 1)
        return f"{self.runtime.get('runtime')} on {threads} thread{'s' * (threads != 1)}"

    def predict(self, counts: Mapping[str, int]) -> float:
        """Return milliseconds for ``counts``, unit name -> sets; a unit that is not named is whole."""
        sets = {**self.units, **counts}
        total = sum(law.milliseconds(sets, self.block) for law in self.laws)
        return self.calibration.offset + self.calibration.scale * total + self.rest_ms

    def by_node(self, counts: Mapping[str, int]) -> Dict[str, float]:
        """Return node -> its share in milliseconds of the prediction, in the order of the network."""
        sets = {**self.units, **counts}
        return {law.name: self.calibration.scale * law.milliseconds(sets, self.block) for law in self.laws}

    def saving(self, unit: str, counts: Mapping[str, int], sets: int) -> float:
        """Return by how many milliseconds a unit that loses ``sets`` sets makes the network faster."""
        before = {**self.units, **counts}
        after = {**before, unit: before[unit] - sets}
        laws = self._laws_of.get(unit, [])
        return self.calibration.scale * sum(law.milliseconds(before, self.block) - law.milliseconds(after, self.block)
                                            for law in laws)

    @property
    def _laws_of(self) -> Dict[str, List[NodeLaw]]:
        if not hasattr(self, '_by_unit'):
            self._by_unit: Dict[str, List[NodeLaw]] = {}
            for law in self.laws:
                for unit in law.reads.units | law.writes.units:
                    self._by_unit.setdefault(unit, []).append(law)
        return self._by_unit

    def cost(self, names: Sequence[str], levels: Sequence[Sequence[int]], budget: float,
             present: Optional[Mapping[str, int]] = None) -> Cost:
        """Return the prediction as a sum of terms of one unit and of pairs of units, for the solver.

        Args:
            names (list[str]): Units that are chosen.
            levels (list[list[int]]): How many sets each of them may have.
            budget (float): Milliseconds at most.
            present (dict[str, int], optional): How many sets others have; by default they are whole.
        """
        terms = CostTerms(names, levels, {**self.units, **(present or {})}, self.block)
        for law in self.laws:
            terms.add(self.calibration.scale * law.coefficients, law.reads, law.writes)
        terms.constant += self.calibration.offset + self.rest_ms
        return terms.cost(budget)

    @property
    def is_trusted(self) -> bool:
        """Whether networks that the table had not seen were off by a tenth at most."""
        return self.calibration.largest_error <= LARGEST_ERROR

    def check_trusted(self) -> None:
        """Raise LatencyTableError unless the table can be trusted."""
        error = self.calibration.largest_error
        if not self.is_trusted:
            raise LatencyTableError(
                f'the latency table was wrong by {error:.0%} on a network that it had not seen (more than '
                f'{LARGEST_ERROR:.0%}): measure it again on a machine that does nothing else, with no more threads '
                'than it has cores, and look for throttling')

    def check_is_of(self, runtime: Mapping[str, Any], input_shape: Sequence[int], units: Mapping[str, int],
                    source: str) -> None:
        """Raise LatencyTableError unless the table was measured of this model in this runtime.

        Args:
            runtime (dict): What the runtime says of itself.
            input_shape (tuple[int]): Of the network.
            units (dict[str, int]): Unit name -> sets of the dense model.
            source (str): Where the table comes from, for the message.
        """
        wrong = [f'{name} is {self.runtime.get(name)} there and {value} here' for name, value in runtime.items()
                 if self.runtime.get(name) != value]
        if tuple(input_shape) != tuple(self.input_shape):
            wrong.append(f'the input is {tuple(self.input_shape)} there and {tuple(input_shape)} here')
        different = sorted({*self.units} ^ {*units}) or [name for name, sets in units.items()
                                                        if self.units[name] != sets]
        if different:
            wrong.append(f'the units of the models differ, such as {different[0]!r}')
        if wrong:
            raise LatencyTableError(f'{source} does not hold here: {"; ".join(wrong)}. Give another file, or remove it '
                                    'and let it be measured anew')

    def to_json(self) -> Dict[str, Any]:
        """Return what a file holds."""
        found = {name: value for name, value in vars(self).items() if not name.startswith('_')}
        found.update(laws=[dict(name=law.name, op=law.op, reads=_sum_to_json(law.reads),
                                writes=_sum_to_json(law.writes), coefficients=list(map(float, law.coefficients)))
                           for law in self.laws],
                     calibration=vars(self.calibration), input_shape=list(self.input_shape))
        return {'format': FORMAT, **found}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], source: str = 'the latency table') -> 'LatencyTable':
        """Return the table of a file.

        Raises:
            LatencyTableError: It is no table of this format.
        """
        if not isinstance(value, Mapping) or value.get('format') not in (FIRST_FORMAT, FORMAT):
            raise LatencyTableError(f'{source} is no latency table of format {FORMAT}; measure it with mmprune latency')
        if value['format'] == FIRST_FORMAT and any('#' in name for name in value.get('units', ())):
            raise LatencyTableError(f'{source} was written when tables knew nothing of heads; measure it again')
        try:
            fields = {name: value[name] for name in cls.__dataclass_fields__}
            laws = [NodeLaw(law['name'], law['op'], _sum_from_json(law['reads']), _sum_from_json(law['writes']),
                            np.array(law['coefficients'], dtype=float)) for law in value['laws']]
            return cls(**{**fields, 'laws': laws, 'calibration': Calibration(**value['calibration']),
                          'input_shape': tuple(value['input_shape'])})
        except (KeyError, TypeError, ValueError) as error:
            raise LatencyTableError(f'{source} is damaged ({type(error).__name__}: {error}); measure it '
                                    'again') from None


def _sum_to_json(channels: ChannelSum) -> Dict[str, Any]:
    products = [[times, list(units)] for times, units in channels.products]
    return dict(constant=channels.constant, parts=[list(part) for part in channels.parts],
                **(dict(products=products) if products else {}))


def _sum_from_json(value: Mapping[str, Any]) -> ChannelSum:
    return ChannelSum(tuple((str(unit), int(times)) for unit, times in value['parts']), int(value['constant']),
                      tuple((int(times), tuple(map(str, units))) for times, units in value.get('products', ())))


def write_table(table: LatencyTable, path: Union[str, 'os.PathLike[str]']) -> None:
    """Write a table as json; the file appears whole or not at all."""
    write_json(table.to_json(), path)


def read_table(path: Union[str, 'os.PathLike[str]']) -> LatencyTable:
    """Read a table.

    Raises:
        LatencyTableError: It is missing, or no table of this format.
    """
    return LatencyTable.from_json(read_json(path, 'latency table', error=LatencyTableError), f'{os.fspath(path)!r}')
