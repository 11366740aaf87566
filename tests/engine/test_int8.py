"""INT8 of deployed files, through the commands: what it costs, what it is made of, and what it takes."""
import importlib
import json

import pytest
import torch
from digits_runs import make_runner
from mmengine.config import Config
from mmengine.registry import init_default_scope
from paths import CONFIGS, TINY
from PIL import Image
from torch import nn

from mmprune.arguments import UserError
from mmprune.commands import main
from mmprune.deploy.onnx_export import HAS_DYNAMO, export_onnx
from mmprune.engine.calibration_images import CalibrationImages
from mmprune.engine.headline import headline
from mmprune.engine.int8 import Int8Deployment, Int8Options
from mmprune.models.from_config import read_config
from mmprune.registry import DATASETS

pytest.importorskip('onnxruntime')
DYNAMIC = CONFIGS / 'deploy/classification_onnxruntime_dynamic.py'
TIMES = {'median', 'first_quartile', 'third_quartile', 'threads'}


@pytest.mark.parametrize(('metrics', 'best', 'wanted', 'found'), [
    ({'a': 1.0, 'b': 2.0}, None, None, 'a'), ({'a': 1.0, 'b': 2.0}, 'b', None, 'b'),
    ({'a': 1.0, 'b': 2.0}, ['c', 'b'], None, 'b'), ({'aAcc': 1.0, 'mIoU': 2.0}, 'auto', None, 'mIoU'),
    ({'a': 1.0, 'b': 2.0}, 'b', 'a', 'a')])
def test_the_metric_that_counts(metrics, best, wanted, found):
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', save_best=best))))
    assert headline(metrics, cfg, wanted) == found


def test_metrics_that_are_not_there():
    with pytest.raises(UserError, match="--metric is 'accuracy', did you mean 'accuracy/top1'"):
        headline({'accuracy/top1': 1.0}, {}, 'accuracy')
    with pytest.raises(UserError, match='the evaluator of the config gives no number'):
        headline({}, {})


def digits_cfg():
    cfg = Config.fromfile(TINY)
    init_default_scope('mmcls')
    return cfg


class Half(nn.Module):
    """A data preprocessor."""

    def forward(self, data, training):
        assert not training
        return dict(inputs=data['inputs'].float() / 2)


@pytest.mark.parametrize('wrapped', [False, True])
def test_images_are_those_of_the_training_through_the_pipeline_of_the_test(wrapped):
    cfg = digits_cfg()
    plain = dict(cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset.pipeline = [dict(type='Resize', scale=(99, 99)), dict(type='PackClsInputs')]
    if wrapped:
        cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=3, dataset=cfg.train_dataloader.dataset)
    found = CalibrationImages(cfg, Half(), ['n', 3, 'h', 'w'], 'Classification', 5)
    assert found.pipeline == 'the pipeline of the test'
    assert len(found) == len([*found]) == 5
    again = [*CalibrationImages(cfg, Half(), [1, 3, 16, 16], 'Classification', 5)]
    assert all(torch.equal(one, other) for one, other in zip(found, again))
    assert not torch.equal(again[0], [*CalibrationImages(cfg, Half(), [1, 3, 16, 16], 'Classification', 5, seed=1)][0])
    assert {image.shape for image in found} == {(1, 3, 16, 16)}
    dataset = DATASETS.build(plain)
    every = torch.stack([dataset[number]['inputs'].float() / 2 for number in range(len(dataset))])
    assert all((every == image).flatten(1).all(1).any() for image in found)


def test_without_another_pipeline_that_of_the_training_serves():
    cfg = digits_cfg()
    cfg.test_dataloader = cfg.val_dataloader = None
    found = CalibrationImages(cfg, Half(), [1, 3, 16, 16], 'Classification', 3)
    assert (found.pipeline, len([*found])) == ('the pipeline of the training', 3)
    cfg.train_dataloader = None
    with pytest.raises(UserError, match='the config has no train_dataloader, whose images the ranges of INT8 come'):
        CalibrationImages(cfg, Half(), [1, 3, 16, 16], 'Classification', 3)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of digits after an epoch, its file, and a picture."""
    folder = tmp_path_factory.mktemp('trained')
    runner = make_runner(TINY, folder / 'run', val_dataloader=None, val_cfg=None, val_evaluator=None)
    runner.train()
    torch.save(dict(state_dict=runner.model.state_dict()), folder / 'digits.pth')
    export_onnx(runner.model.eval(), torch.zeros(1, 3, 16, 16), folder / 'x.onnx', True)
    Image.new('RGB', (16, 16), (200, 100, 50)).save(folder / 'image.png')
    return folder


def test_sensitive_layers_stay_in_float_until_the_drop_is_allowed(trained):
    cfg = digits_cfg()
    int8 = Int8Deployment(read_config(str(DYNAMIC)), cfg, trained / 'x.onnx', Int8Options(images=20, form='QDQ'))
    assert 'ranges from 20 training images through the pipeline of the test' in int8.describe_ranges()[0]
    done = int8.search()
    assert int8.record['metric'] == 'accuracy/top1'
    assert int8.record['float_metrics']['accuracy/top1'] > 60
    assert done.drop <= 1
    order = [name for name, _ in int8.sensitivity.ranked()]
    evaluate = int8._evaluation
    # a file in INT8 that is worth nothing: all layers stay in float, and the drop is told
    int8._evaluation = lambda path: {'accuracy/top1': 0.0} if 'int8' in str(path) else evaluate(path)
    done = int8.search()
    assert list(done.left_in_float) == order
    lines = int8.describe_search(done)
    assert lines[1].startswith(f'{len(order)} of {len(order)} layers stay in float (')
    assert lines[2] == 'that is more than allowed, whatever stays in float: deploy the float file'


@pytest.mark.skipif(not HAS_DYNAMO, reason='this torch has no exporter without mmdeploy')
@pytest.mark.filterwarnings('ignore')
def test_deploy_writes_int8_and_its_record(trained, tmp_path, capsys, monkeypatch):
    pytest.importorskip('onnxscript')
    monkeypatch.setenv('LOCAL_RANK', '0')
    main(['deploy', str(DYNAMIC), str(TINY), str(trained / 'digits.pth'), str(trained / 'image.png'), '--work-dir',
          str(tmp_path), '--rounds', '2', '--exporter', 'dynamo', '--json', str(tmp_path / 'deploy.json'), '--int8',
          '--int8-images', '20', '--max-drop', '3', '--int8-format', 'QOperator'])
    record = json.loads((tmp_path / 'int8.json').read_text())
    assert record['file'] == str(tmp_path / 'end2end_int8.onnx')
    assert (record['format'], record['images'], record['metric']) == ('QOperator', 20, 'accuracy/top1')
    float_metric, metric = (record[key]['accuracy/top1'] for key in ('float_metrics', 'metrics'))
    assert record['drop'] == pytest.approx(float_metric - metric)
    assert {name: {*times} for name, times in record['times'].items()} == {'dense': TIMES, 'dense_int8': TIMES}
    assert json.loads((tmp_path / 'deploy.json').read_text())['file'] == str(tmp_path / 'end2end.onnx')
    out = capsys.readouterr().out
    assert f'{tmp_path / "end2end_int8_qdq.onnx"}: the same in the format QDQ' in out
    main(['test-deployed', str(DYNAMIC), str(TINY), record['file'], '--json', str(tmp_path / 'x.json')])
    assert json.loads((tmp_path / 'x.json').read_text()) == record['metrics']


@pytest.mark.full
@pytest.mark.filterwarnings('ignore')
def test_a_pruned_detector(tmp_path, capsys):
    """Boxes after the NMS are as good as in float, and the network is timed beside the dense one."""
    importlib.import_module('mmdeploy.apis')
    import deployed_runs

    from mmprune.deploy.onnx_runtime import OnnxModel
    from mmprune.deploy.runtimes.open_vino import OpenVINO
    config, checkpoint = deployed_runs.write_detector(tmp_path, pruned=True)
    main(['deploy', str(deployed_runs.DETECTION), str(config), str(checkpoint), str(tmp_path / '0.png'), '--work-dir',
          str(tmp_path), '--rounds', '2', '--json', str(tmp_path / 'deploy.json'), '--int8', '--max-drop', '4',
          '--int8-format', 'QDQ'])
    deployed, record = (json.loads((tmp_path / name).read_text()) for name in ('deploy.json', 'int8.json'))
    assert deployed['dense_file'] == str(tmp_path / 'dense.onnx')
    assert deployed['pruned_file'] == str(tmp_path / 'pruned.onnx')
    assert {name: {*times} for name, times in deployed['times'].items()} == {'dense': TIMES, 'pruned': TIMES}
    assert [*record['times']] == ['dense', 'pruned', 'dense_int8', 'pruned_int8']
    assert record['float_metrics']['coco/bbox_mAP'] > 0.5
    assert record['drop'] <= 4
    assert 'ranges from 6 training images' in capsys.readouterr().out
    x = torch.rand(1, 3, 64, 96)
    with OpenVINO().opened(record['file'], x) as once:
        assert [tensor.shape[1:] for tensor in once()] == [tensor.shape[1:] for tensor in OnnxModel(record['file'])(x)]
