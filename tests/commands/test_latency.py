"""``mmprune latency`` on a tiny model: what is printed and written, and what is refused."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT, TINY

from mmprune.commands import main
from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime
from mmprune.units.structure import write_structure

DEPLOY = ROOT / 'configs/mmcls/digits/group_fisher_act_deploy_resnet-small_digits.py'
OPTIONS = ('--input-shape', '1', '3', '16', '16', '--networks', '8')


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """What is printed does not depend on how well it is measured."""
    for name in ('SECONDS', 'ANCHOR_SECONDS'):
        monkeypatch.setattr(f'mmprune.latency.profiled.{name}', 0.001)
    monkeypatch.setattr('mmprune.latency.meter.ROUNDS', 4)
    # so that the table of a busy machine is one, too: whole runs take what the weights weigh
    monkeypatch.setattr(OnnxRuntime, 'median_ms', lambda self, source, *args: Path(source).stat().st_size / 1e5)
    monkeypatch.setattr('mmprune.latency.meter.measured_block', lambda runtime: 16)


def output_of(capsys, *argv):
    main([str(one) for one in argv])
    return capsys.readouterr().out


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in argv])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    return error


def test_table_is_printed_written_drawn_and_read_again(capsys, tmp_path):
    table, picture = tmp_path / 'table.json', tmp_path / 'layers.svg'
    out = output_of(capsys, 'latency', TINY, *OPTIONS, '--out', table, '--picture', picture)
    assert 'of the time no unit changes' in out
    assert 'largest error' in out
    assert json.loads(table.read_text())['networks'] == 8
    assert 'milliseconds' in picture.read_text()
    assert out.endswith(output_of(capsys, 'latency', TINY, *OPTIONS, '--out', table))  # nothing is measured again
    assert 'does not hold here: threads is 1 there and 2 here' in refusal(
        capsys, 'latency', TINY, *OPTIONS, '--out', table, '--threads', 2)
    assert 'names no pruned structure' in refusal(
        capsys, 'latency', TINY, *OPTIONS, '--out', table, '--require-faster')


def test_pruned_model_is_compared_with_the_dense_one(capsys, tmp_path):
    out = output_of(capsys, 'latency', DEPLOY, '--networks', '8', '--out', tmp_path / 'table.json')
    assert 'pruned: predicted' in out
    assert 'times as fast as dense' in out.splitlines()[-1]


def test_pack_goes_to_a_device_and_its_times_come_back(capsys, tmp_path):
    pack, table = tmp_path / 'pack', tmp_path / 'device.json'
    written = output_of(capsys, 'latency', 'pack', TINY, *OPTIONS, '--block', 4, '--out', pack)
    assert written.startswith('wrote 8 networks and measure.py')

    def measure(folder):
        subprocess.run([sys.executable, 'measure.py', '--seconds', '0.02'], cwd=folder, check=True,
                       capture_output=True)
        return folder / 'measured.json'

    assert 'blocks of 4 channels' in output_of(capsys, 'latency', TINY, *OPTIONS[:5], '--measured', measure(pack),
                                               '--out', table)
    counts = json.loads((pack / 'pack.json').read_text())['networks'][0]['counts']
    write_structure({name: max(4, count // 2) for name, count in counts.items()}, tmp_path / 'fix_subnet.json')
    output_of(capsys, 'latency-pack', TINY, *OPTIONS[:5], '--structure', tmp_path / 'fix_subnet.json', '--out',
              tmp_path / 'pruned')
    out = output_of(capsys, 'latency', TINY, *OPTIONS[:5], '--measured', measure(tmp_path / 'pruned'), '--out', table)
    assert 'is corrected' in out
    assert 'give its file by --out' in refusal(capsys, 'latency', TINY, *OPTIONS[:5], '--measured',
                                               tmp_path / 'pruned/measured.json')


def test_wrong_calls_are_one_line(capsys, tmp_path):
    assert 'give a CONFIG' in refusal(capsys, 'latency')
    assert 'give a CONFIG' in refusal(capsys, 'latency', TINY, '--dense', 'x.onnx')
    assert 'x.onnx' in refusal(capsys, 'latency', '--nodes', tmp_path / 'x.onnx')
