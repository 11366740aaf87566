"""Networks for a device to measure, with the script that does it, and what comes back."""
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import torch

from ..arguments import UserError
from ..deploy.onnx_export import export_onnx
from ..deploy.runtimes import device_measure
from ..deploy.runtimes.runtime import NodeTime
from ..files import read_json, write_json
from ..units.mutator import ChannelMutator
from .channel_sum import channel_sums
from .profiled import Measured, Progress, fit_table, named, random_widths
from .pruned_copy import PrunedCopy, sets_of
from .table import LatencyTable, LatencyTableError

FORMAT = 1
PACK_JSON, SCRIPT = 'pack.json', 'measure.py'


def write_pack(mutator: ChannelMutator, folder: Union[str, 'os.PathLike[str]'], shape: Sequence[int], block: int,
               networks: int, structure: Optional[Mapping[str, int]] = None,
               progress: Optional[Progress] = None) -> List[Dict[str, int]]:
    """Write networks as ONNX files, and the script that measures them with onnxruntime and numpy alone.

    Args:
        mutator (ChannelMutator): Of the model, which is not changed.
        folder (str): Where they go; made if it is not there.
        shape (tuple[int]): Of the input.
        block (int): Widths are multiples of it.
        networks (int): How many, the dense one among them.
        structure (dict[str, int], optional): Unit name -> channels, of a pruned model that is to be measured beside the
            dense one, instead of networks for a table.
        progress (Callable, optional): Told how many are written, of how many.

    Returns:
        list[dict[str, int]]: Unit name -> sets, of each network.
    """
    copy, target = PrunedCopy(mutator), Path(folder)
    if structure is None:
        structures = list(random_widths(mutator, block, networks))
    else:
        structures = [copy.dense(), sets_of(structure, mutator)]
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    target.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, counts in enumerate(structures):
        name = f'{number:03d}.onnx'
        export_onnx(copy.cut_to(counts), x, target / name, folds_norms=False)
        entries.append(dict(file=name, counts=counts))
        if progress is not None:
            progress(number + 1, len(structures))
    shutil.copyfile(device_measure.__file__, target / SCRIPT)
    write_json(dict(format=FORMAT, input_shape=list(shape), block=block, networks=entries), target / PACK_JSON)
    return structures


def read_measured(path: Union[str, 'os.PathLike[str]']) -> Dict[str, Any]:
    """Return what a device measured.

    Raises:
        LatencyTableError: The file is missing, or not what the script writes.
    """
    value = read_json(path, 'what the device measured', error=LatencyTableError)
    if not isinstance(value, Mapping) or value.get('format') != FORMAT or not value.get('networks'):
        raise LatencyTableError(f'{os.fspath(path)!r} is not what {SCRIPT} of a pack writes')
    return dict(value)


def table_of(measured: Mapping[str, Any], mutator: ChannelMutator, rest_ms: float = 0.0) -> LatencyTable:
    """Return the latency table of a device.

    Args:
        measured (dict): From :func:`read_measured`.
        mutator (ChannelMutator): Of the model that was packed.
        rest_ms (float): Milliseconds outside of the network.

    Raises:
        LatencyTableError: It is of another model, or of too few networks.
    """
    pack = measured['pack']
    if {*pack['networks'][0]['counts']} != {unit.name for unit in mutator.units}:
        raise LatencyTableError('what the device measured is of another model: its units differ')
    if len(measured['networks']) < 8:
        raise LatencyTableError(f'the pack has {len(measured["networks"])} networks, a table needs 8 or more')
    usual = measured['networks'][0]['milliseconds']
    found = []
    for number, (entry, one) in enumerate(zip(pack['networks'], measured['networks'])):
        factor = usual / one['dense'] if number else 1.0
        nodes = [NodeTime(node['name'], node['op'], factor * node['milliseconds'], tuple(map(tuple, node['inputs'])),
                          tuple(map(tuple, node['outputs'])), node['kernel']) for node in one['nodes']]
        found.append(Measured(dict(entry['counts']), named(nodes), factor * one['milliseconds']))
    return fit_table(found, channel_sums(mutator), pack['block'], measured['runtime'], tuple(pack['input_shape']),
                     rest_ms)


def corrected(table: LatencyTable, measured: Mapping[str, Any]) -> Dict[str, float]:
    """Correct a table by a pruned model that was measured beside the dense one; return milliseconds by name.

    Args:
        table (LatencyTable): It is changed.
        measured (dict): Of a pack with a structure.

    Returns:
        dict[str, float]: ``predicted`` by the table as it was, ``measured`` and ``dense``.

    Raises:
        UserError: It is of something else than a dense and a pruned network.
    """
    networks = measured['networks']
    if len(networks) != 2:
        raise UserError(f'{len(networks)} networks were measured; a table is corrected by a pack with a structure')
    predicted = table.predict(measured['pack']['networks'][1]['counts'])
    found = table.total_ms(networks[1]['milliseconds'] / networks[1]['dense'])
    factor = (found - table.rest_ms) / (predicted - table.rest_ms)
    table.calibration.offset *= factor
    table.calibration.scale *= factor
    return dict(predicted=predicted, measured=found, dense=table.dense_total_ms)
