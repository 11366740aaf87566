"""Where the time of a model is measured, and its latency table: what ``runtime=dict(...)`` beside a target names."""
import copy
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

import torch
from mmengine.logging import print_log
from torch import nn

from ..arguments import LARGEST_BLOCK, UserError, number, short, sizes, whole_number
from ..deploy.runtimes.runtime import Runtime
from ..deploy.timing import Candidate, Latency, measure
from ..graph.nested import output_tensors
from ..registry import RUNTIMES, build
from ..units.mutator import ChannelMutator
from .block import measured_block
from .profiled import NETWORKS, Progress, measure_table
from .pruned_copy import PrunedCopy
from .table import LatencyTable, LatencyTableError, read_table, write_table

#: Timed runs of a structure and of the dense network beside it, the turns in which they are taken, for spells in which
#: a machine has a core less last for seconds, and the seconds after which there are no more turns.
ROUNDS, TURNS, SECONDS = 150, 9, 20.0
#: How often a table is measured until it can be trusted.
TRIES = 3
#: Arguments of ``runtime=dict(...)`` that are not those of the runtime itself.
OWN = ('input_shape', 'table', 'block', 'rest_ms', 'networks')


class Timed(NamedTuple):
    """A structure timed beside the dense network.

    Attributes:
        pruned, dense (Latency): In the same turns.
    """

    pruned: Latency
    dense: Latency

    @property
    def share(self) -> float:
        """The pruned network's time over the dense one's."""
        return 1 / self.pruned.speedup_over(self.dense)


class Meter:
    """Measures the structures of a model in a runtime.

    Args:
        runtime (dict): ``type`` and arguments of a runtime (``OnnxRuntime``, ``OpenVINO``, ``Torch``); beside them
            ``input_shape`` (``N, C, H, W``; default: that of the demo input), ``table`` (a json file: read if it is
            there, else written), ``block`` (channels that the runtime computes together; default: measured),
            ``rest_ms`` (milliseconds of the deployed model outside of the network, such as decoding and NMS) and
            ``networks`` (how many are measured for a table).
        mutator (ChannelMutator): Of the model, which is not changed.

    Raises:
        UserError: An argument is wrong, or a package is missing.
    """

    def __init__(self, runtime: Mapping[str, Any], mutator: ChannelMutator) -> None:
        if not isinstance(runtime, Mapping) or 'type' not in runtime:
            raise UserError(f"runtime is {short(runtime)}; it must be a dict with a type, such as "
                            "dict(type='OnnxRuntime', threads=1)")
        self.mutator = mutator
        self.runtime: Runtime = build(RUNTIMES, {key: value for key, value in runtime.items() if key not in OWN})
        self.input_shape = example_shape(mutator, runtime.get('input_shape'))
        self.path: Optional[str] = runtime.get('table')
        self.rest_ms = number('runtime.rest_ms', runtime.get('rest_ms', 0.0), 0, 1e7)
        self.networks = whole_number('runtime.networks', runtime.get('networks', NETWORKS), 8, most=1000)
        self._block: Optional[int] = runtime.get('block')
        if self._block is not None:
            whole_number('runtime.block', self._block, most=LARGEST_BLOCK)
        self.x = torch.randn(self.input_shape, generator=torch.Generator().manual_seed(0))

    @property
    def is_here(self) -> bool:
        """Whether structures can be timed on this machine."""
        return self.runtime.is_here

    @property
    def block(self) -> int:
        """Channels that the runtime computes together."""
        if self._block is None:
            alone = copy.copy(self.runtime)
            alone.threads = 1  # threads prefer yet larger multiples, but that is no reason to keep to them
            self._block = measured_block(alone)
            print_log(f'{self.runtime.name} computes blocks of {self._block} channels here', logger='current')
        return self._block

    def block_alone(self) -> int:
        """Return the block of the file's table, or measure it and no table: seconds instead of minutes."""
        known = not self.runtime.is_here or (self.path is not None and os.path.exists(self.path))
        return self.table().block if known else self.block

    def table(self, progress: Optional[Progress] = None) -> LatencyTable:
        """Read the table of the file, or measure it and, if it can be trusted, write it.

        One that cannot be trusted, since others kept the machine busy, is measured again. After :data:`TRIES` it is
        returned, and refused where it is used (:meth:`~.table.LatencyTable.check_trusted`).

        Raises:
            LatencyTableError: The file is a table of another model, runtime, machine or shape; the message says which.
        """
        if self.path is not None and os.path.exists(self.path):
            table = read_table(self.path)
            self.check(table)
            return table
        if not self.runtime.is_here:
            raise UserError(f"the table of a device comes from a file, and {self.path!r} is none: runtime=dict("
                            "type='Device', table='device.json'); mmprune latency-pack --help says how it is made")
        for turn in range(1, TRIES + 1):
            table = measure_table(self.mutator, self.runtime, self.x, self.block, self.networks, rest_ms=self.rest_ms,
                                  progress=progress)
            try:
                table.check_trusted()
                break
            except LatencyTableError as error:
                print_log(f'{error}{"; once more" if turn < TRIES else ""}', logger='current', level=30)
        if self.path is not None and table.is_trusted:
            write_table(table, self.path)
        elif self.path is not None:
            print_log(f'{self.path} is not written: the table cannot be trusted', logger='current', level=30)
        return table

    def check(self, table: LatencyTable) -> None:
        """Raise LatencyTableError unless a table is one of this model in this runtime."""
        table.check_is_of(self.runtime.describe(), self.input_shape,
                          {unit.name: len(unit.kept) for unit in self.mutator.units}, self.path or 'the latency table')

    def time(self, counts: Mapping[str, int], rounds: int = ROUNDS) -> Timed:
        """Time a structure, unit name -> sets, beside the dense network."""
        pruned = PrunedCopy(self.mutator)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            candidates: Dict[str, Candidate] = {}
            for name, widths in (('dense', pruned.dense()), ('pruned', dict(counts))):
                model = pruned.cut_to(widths)
                source = self.runtime.prepare(model, self.x, Path(folder) / f'{name}.onnx')
                if isinstance(source, nn.Module):
                    pruned = PrunedCopy(self.mutator)  # the module is the copy itself
                candidates[name] = Candidate(self.runtime, source)
            found = measure(candidates, self.x, rounds, SECONDS, turns=TURNS)
        for line in found.warning_lines():
            print_log(line, logger='current', level=30)
        return Timed(found['pruned'], found['dense'])


def example_shape(mutator: ChannelMutator, shape: Optional[Sequence[int]]) -> Sequence[int]:
    """Return the shape of the input that is timed: the given one, else one image of the demo input.

    Raises:
        UserError: It is not four positive sizes, or the demo input is no image.
    """
    if shape is not None:
        return tuple(sizes('runtime.input_shape', shape))
    demo = mutator.demo_input
    own = getattr(demo, 'input_shape', None)
    if own is None:
        tensors = output_tensors(getattr(demo, 'inputs', None))
        own = tuple(tensors[0].shape) if len(tensors) == 1 and tensors[0].dim() == 4 else None
    if own is None:
        raise UserError('the model is not traced with one batch of images, so runtime must say what is timed: '
                        "runtime=dict(type='OnnxRuntime', input_shape=(1, 3, 224, 224))")
    return (1, *own[1:])
