"""`mmprune compress` on digits, from a checkpoint to an INT8 file and a report; a second call does nothing again."""
import re
import subprocess
import sys

import onnxruntime
import pytest
from digits_runs import write_prune_config
from mmcv import imwrite
from mmengine.config import Config

from mmprune.engine.digits import Digits
from mmprune.models.from_config import read_config
from mmprune.report.stage_record import STAGES, read_plan, read_records

pytestmark = pytest.mark.long

#: Few digits, so that every stage is short.
FEW = ['train_dataloader.dataset.indices=80', 'test_dataloader.dataset.indices=60', 'val_dataloader.dataset.indices=60']


@pytest.fixture(scope='module')
def road(tmp_path_factory):
    """Return the folder, what the first call printed, and how to call again."""
    folder = tmp_path_factory.mktemp('compress')
    write_prune_config(folder)
    imwrite(Digits('test')[0]['img'], str(folder / 'digit.png'))

    def call(*more):
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-m', 'mmprune', 'compress', 'dense.py', 'dense.pth', '--work-dir', 'road',
             '--image', 'digit.png', '--images', '40', '--finetune', '0.5', '--int8-drop', '100', *more,
             '--cfg-options', *FEW], cwd=folder, capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout + done.stderr

    return folder / 'road', call('--target', 'flops=0.7'), call


def test_every_stage_is_done(road):
    folder, (status, text), _ = road
    assert status == 0, text[-3000:]
    records = read_records(folder)
    assert list(records) == list(STAGES)
    assert 0.5 < records['prune'].result['reached']['flops'] <= 0.7
    assert records['test-deployed'].result['metrics'] == pytest.approx(records['test'].result['metrics'])
    assert read_plan(folder).metric == 'accuracy/top1'
    for stage in ('deploy', 'int8'):
        onnxruntime.InferenceSession(str(folder / records[stage].result['file']))
    assert {'dense', 'pruned', 'dense_int8', 'pruned_int8'} <= set(records['int8'].result['times'])
    assert 'times as fast' in text
    assert re.search(r'^\[1/7\] dense: \d+ s\. accuracy/top1 \d', text, re.MULTILINE)


def test_configs_are_written_out_and_can_be_read(road, monkeypatch):
    folder, _, _ = road
    monkeypatch.chdir(folder.parent)  # paths in them are as they were typed
    for name in ('dense', 'prune', 'finetune', 'deploy', 'onnxruntime'):
        assert isinstance(read_config(str(folder / 'configs' / f'{name}.py')), Config)
    assert read_config(str(folder / 'configs/dense.py')).train_dataloader.dataset.indices == 80


def test_the_report_is_there(road):
    folder, _, _ = road
    for name in ('report.html', 'report.md'):
        assert 'times as fast' in (folder / name).read_text()


def test_a_second_call_does_nothing_again(road):
    folder, _, call = road
    before = {path.name: path.read_text() for path in (folder / 'stages').glob('*.json')}
    status, text = call('--target', 'flops=0.7')
    assert status == 0, text[-3000:]
    assert text.count('done before') == len(STAGES)
    assert before == {path.name: path.read_text() for path in (folder / 'stages').glob('*.json')}


def test_another_target_needs_another_folder(road):
    _, _, call = road
    status, text = call('--target', 'flops=0.6')
    assert status == 2
    assert "target was {'flops': 0.7} and is {'flops': 0.6}" in text
    assert text.count('error:') == 1
