"""What a run measures of its time: taken once, by rank 0; the same on every rank and after a resume."""
import os
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from mmengine import dist
from mmengine.runner import Runner

from ..files import read_json, write_json
from ..latency.meter import Meter
from ..latency.table import LatencyTable
from ..units.mutator import ChannelMutator

#: In the work dir: what was measured, written before it is used.
LATENCY_JSON = 'latency.json'


class LatencyRecord:
    """Measures on rank 0 and remembers: measured times never repeat, so a resumed run must not measure again.

    What a checkpoint lacks, since it is older than a decision, is in ``latency.json`` of the work dir.

    Args:
        runtime (dict): See :class:`~mmprune.latency.meter.Meter`.

    Attributes:
        state (dict): ``table`` and ``shares`` (structure -> share of the dense time), or ``block`` where no more is
            needed; plain values for a checkpoint.
    """

    def __init__(self, runtime: Mapping[str, Any]) -> None:
        self.runtime = runtime
        self.state: Dict[str, Any] = {}
        self._meter: Optional[Meter] = None
        self._table: Optional[LatencyTable] = None

    def start(self, runner: Runner, mutator: ChannelMutator) -> LatencyTable:
        """Return the table: that of the resumed run, of the file that ``runtime`` names, or one measured now."""
        if self._table is not None:
            return self._table
        if self._is_to_measure(runner, mutator, 'table'):
            self.state = dict(table=self._measured_table(runner).to_json(), shares={})
        self._share_state()
        self._table = LatencyTable.from_json(self.state['table'])
        return self._table

    def block(self, runner: Runner, mutator: ChannelMutator) -> int:
        """Return the block of the runtime, for a target that needs no table: taken as :meth:`start` takes that."""
        if self._is_to_measure(runner, mutator, 'table', 'block'):
            self.state = dict(block=self._measuring().block_alone())
            self._write()
        self._share_state()
        return int(self.state['block'] if 'block' in self.state else self.state['table']['block'])

    def _is_to_measure(self, runner: Runner, mutator: ChannelMutator, *keys: str) -> bool:
        """Take up what a run that is resumed has measured; tell whether rank 0, which this is, has none of the keys."""
        self._path, self._mutator = Path(runner.work_dir) / LATENCY_JSON, mutator
        if not dist.is_main_process():
            return False
        if runner._resume and self._path.exists():
            saved = read_json(self._path, 'what the run measured')
            if self.state.get('table') in (None, saved.get('table')):
                self.state = saved
        return not {*keys} & {*self.state}

    def _share_state(self) -> None:
        states = [self.state]
        dist.broadcast_object_list(states)
        self.state = states[0]

    def _measured_table(self, runner: Runner) -> LatencyTable:
        """Return a table; one that cannot be trusted is not written, so that the run that goes on measures again."""
        runner.logger.info('measuring the latency table')
        table = self._measuring().table()
        if table.is_trusted:
            self.state = dict(table=table.to_json(), shares={})
            self._write()
        return table

    @property
    def is_here(self) -> bool:
        """Whether structures can be timed on this machine; on a device, its table's word is taken."""
        return str(self.runtime['type']).split('.')[-1] != 'Device'

    def share(self, counts: Mapping[str, int]) -> float:
        """Return the share of the dense time that a structure takes, unit name -> sets; called on rank 0."""
        key = ' '.join(str(counts[name]) for name in sorted(counts))
        if key not in self.state['shares']:
            self.state['shares'][key] = self._measuring().time(counts).share
            self._write()
        return float(self.state['shares'][key])

    def _measuring(self) -> Meter:
        if self._meter is None:
            self._meter = Meter(self.runtime, self._mutator)
        return self._meter

    def _write(self) -> None:
        os.makedirs(self._path.parent, exist_ok=True)
        write_json(self.state, self._path)
