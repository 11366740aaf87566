"""Networks for another device: what is written, measured by the script alone, and made a table of."""
import json
import subprocess
import sys

import pytest
import torch
from layer_runtime import Streams

from mmprune.latency.meter import Meter
from mmprune.latency.pack import corrected, read_measured, table_of, write_pack
from mmprune.latency.table import LatencyTableError
from mmprune.units.mutator import ChannelMutator

SHAPE = (1, 3, 8, 8)


def mutator_of(model):
    made = ChannelMutator(dict(type='ChannelUnit'), dict(type='ExampleInputs', inputs=torch.randn(SHAPE)))
    made.prepare(model)
    return made


@pytest.fixture(scope='module')
def mutator():
    torch.manual_seed(0)
    return mutator_of(Streams())


def run_on_device(folder):
    """Run the script of a pack in a process that knows nothing of this package, and return what it wrote."""
    code = ('import runpy, sys; sys.modules["torch"] = sys.modules["mmprune"] = None\n'
            f'sys.argv = ["measure.py", "--seconds", "0.001", "--out", "{folder / "measured.json"}"]\n'
            f'runpy.run_path("{folder / "measure.py"}", run_name="__main__")')
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, cwd=folder, env={})
    return read_measured(folder / 'measured.json')


@pytest.fixture(scope='module')
def measured(mutator, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pack')
    write_pack(mutator, folder, SHAPE, block=4, networks=8)
    return run_on_device(folder)


def test_the_script_needs_neither_torch_nor_this_package_and_makes_a_table(mutator, measured):
    table = table_of(measured, mutator, rest_ms=1.0)
    assert table.runtime['runtime'] == 'onnxruntime'
    assert table.input_shape == SHAPE
    assert table.networks == 8
    assert table.block == 4
    assert {law.op for law in table.laws} >= {'Conv'}
    assert table.dense_total_ms == pytest.approx(measured['networks'][0]['milliseconds'] + 1)


def test_a_device_is_planned_for_by_its_table_alone(mutator, measured, tmp_path):
    from mmprune.latency.table import write_table
    write_table(table_of(measured, mutator), tmp_path / 'device.json')
    meter = Meter(dict(type='Device', table=str(tmp_path / 'device.json')), mutator)
    assert not meter.is_here
    assert meter.table().runtime['runtime'] == 'onnxruntime'
    with pytest.raises(ValueError, match='comes from a file'):
        Meter(dict(type='Device', table=str(tmp_path / 'none.json')), mutator).table()


def test_a_pruned_model_that_comes_back_corrects_the_table(mutator, measured, tmp_path):
    table = table_of(measured, mutator)
    structure = {unit.name: unit.width // 2 for unit in mutator.units}
    write_pack(mutator, tmp_path, SHAPE, block=4, networks=8, structure=structure)
    back = run_on_device(tmp_path)
    assert len(back['networks']) == 2
    back['networks'][1].update(milliseconds=0.75, dense=1.0)
    counts = back['pack']['networks'][1]['counts']
    before = table.predict(counts)
    times = corrected(table, back)
    assert times['predicted'] == pytest.approx(before)
    assert times['measured'] == pytest.approx(0.75 * table.dense_ms)
    assert table.predict(counts) == pytest.approx(times['measured'])


def test_what_is_not_of_this_model_is_refused(mutator, measured, tmp_path):
    with pytest.raises(LatencyTableError, match='of another model'):
        table_of(measured, mutator_of(torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))))
    few = dict(measured, networks=measured['networks'][:5])
    with pytest.raises(LatencyTableError, match='a table needs 8 or more'):
        table_of(few, mutator)
    path = tmp_path / 'x.json'
    path.write_text(json.dumps([1]))
    with pytest.raises(LatencyTableError, match=r'is not what measure.py of a pack writes'):
        read_measured(path)
