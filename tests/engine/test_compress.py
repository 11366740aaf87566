"""The road: stages run once, go on where they were stopped, and say what failed; options and plans are checked."""
import select
import subprocess
import sys
import textwrap

import pytest
from paths import TINY

from mmprune.arguments import UserError
from mmprune.engine.compress.configs import RoadConfigs
from mmprune.engine.compress.curve import format_curve, point_within
from mmprune.engine.compress.options import CompressOptions, parse_target
from mmprune.engine.compress.plan import plan_of, remembered
from mmprune.engine.compress.road import Road
from mmprune.engine.compress.stages import Stage
from mmprune.engine.compress.summary import Summary
from mmprune.engine.compress.survey import Survey
from mmprune.engine.headline import headline
from mmprune.models.from_config import read_config
from mmprune.report.stage_record import StageRecord, read_record, write_plan
from mmprune.units.structure import write_structure

POINTS = [dict(asked=share, latency=share, ms=10 * share, flops=share, params=share, metrics={'accuracy/top1': top})
          for share, top in ((1.0, 90.0), (0.8, 89.5), (0.6, 88.0), (0.4, 89.9))]


def options(folder, **changes):
    return CompressOptions(**{**dict(config='dense.py', checkpoint='dense.pth', folder=folder, target={'flops': 0.5},
                                     input_shape=(1, 3, 32, 32), image='x.png'), **changes})


def stage(name='dense', command=('--version',), result=None):
    return Stage(name, 'a test', lambda: None, lambda: [[*command]], lambda: result or {})


@pytest.mark.parametrize(('texts', 'target'), [
    ([], {}), (['latency=0.5'], {'latency': 0.5}), (['latency_ms=12', 'flops=0.6'], {'latency_ms': 12, 'flops': 0.6})])
def test_targets(texts, target):
    assert parse_target(texts) == target


@pytest.mark.parametrize(('texts', 'message'), [
    (['latncy=0.5'], "did you mean 'latency'"), (['flops'], 'flops=NUMBER'), (['flops=2'], 'between 0 and 1'),
    (['flops=0.5', 'params=0.5'], 'one of them'), (['latency=0.5', 'latency_ms=3'], 'one of them'),
    (['flops=0.5', 'flops=0.4'], 'twice'), (['latency_ms=0'], 'milliseconds'), (['flops=nan'], 'between 0 and 1')])
def test_wrong_targets(texts, message):
    with pytest.raises(UserError, match=message):
        parse_target(texts)


def test_headlines():
    metrics = {'coco/bbox_mAP_50': 0.8, 'coco/bbox_mAP': 0.5}
    assert headline(metrics, {}) == 'coco/bbox_mAP'
    assert headline(metrics, dict(default_hooks=dict(checkpoint=dict(save_best='auto')))) == 'coco/bbox_mAP'
    assert headline(metrics, dict(default_hooks=dict(checkpoint=dict(save_best=['coco/bbox_mAP_50'])))) == \
        'coco/bbox_mAP_50'
    assert headline(metrics, {}, 'coco/bbox_mAP_50') == 'coco/bbox_mAP_50'
    assert headline({'other': 1.0}, {}) == 'other'
    with pytest.raises(UserError, match='mIoU'):
        headline(metrics, {}, 'mIoU')
    with pytest.raises(UserError, match='no number'):
        headline({}, {})


def test_the_fastest_point_before_a_larger_drop():
    assert point_within(POINTS, 'accuracy/top1', 1.0)['asked'] == 0.8  # 0.4 loses less, behind one that loses more
    assert point_within(POINTS, 'accuracy/top1', 2.0)['asked'] == 0.4
    with pytest.raises(UserError, match='falls by 0.50 points'):
        point_within(POINTS, 'accuracy/top1', 0.2)
    assert [line.split()[-1] for line in format_curve(POINTS, 'accuracy/top1').splitlines()[1:]] == [
        '+0.00', '-0.50', '-2.00', '-0.10']


@pytest.mark.parametrize(('method', 'target', 'hook'), [
    ('one-shot', {'latency': 0.5, 'flops': 0.6}, 'OneShotPruningHook'),
    ('group-fisher', {'latency': 0.5}, 'ResourceInfoHook'), ('group-fisher', {'flops': 0.5}, 'ResourceInfoHook')])
def test_the_configs_that_are_written(tmp_path, method, target, hook):
    known = Survey(400, 100, 50, 500, 0.01, None)
    configs = RoadConfigs(read_config(str(TINY)), options(tmp_path, method=method, target=target), known)
    configs.write_dense()
    configs.write_prune()
    configs.write_curve()
    configs.write_finetune('pruned.pth')
    prune, curve, finetune = (read_config(configs.path(f'{name}.py')) for name in ('prune', 'curve', 'finetune'))
    assert prune.custom_hooks[-1].type == f'mmprune.{hook}'
    assert curve.custom_hooks[-1].type == 'mmprune.AccuracyCurveHook'
    assert [one.type for one in finetune.custom_hooks] == ['mmprune.ExactResumeHook', 'mmprune.PruningStructureHook']
    if method == 'one-shot':
        assert prune.custom_hooks[-1].target == dict(target, align='auto')
    else:
        assert prune.custom_hooks[-1].save_ckpt_thr == [0.5]


@pytest.mark.parametrize('method', ['one-shot', 'group-fisher'])
@pytest.mark.parametrize('linear', [False, True])
def test_all_configs_say_whether_linear_layers_are_pruned(tmp_path, method, linear):
    asked = options(tmp_path, method=method, mutate_linear=linear)
    configs = RoadConfigs(read_config(str(TINY)), asked, Survey(400, 100, 50, 500, 0.01, None))
    configs.write_dense()
    configs.write_prune()
    write_structure({'backbone.conv1_(0, 8)_8': 4}, str(tmp_path / 'fix_subnet.json'))
    configs.write_deploy(str(tmp_path / 'fix_subnet.json'))
    prune, deploy = (read_config(configs.path(f'{name}.py')) for name in ('prune', 'deploy'))
    assert prune.model.mutator.channel_unit_cfg.mutate_linear is linear
    assert deploy.model.mutate_linear is linear


@pytest.mark.parametrize('target', [{'params': 0.5}, {'latency': 0.5, 'flops': 0.6}, {'latency_ms': 3.0}])
def test_group_fisher_ends_at_a_share_of_the_time_or_of_the_flops(tmp_path, target):
    configs = RoadConfigs(read_config(str(TINY)), options(tmp_path, method='group-fisher', target=target),
                          Survey(400, 100, 50, 500, 0.01, None))
    with pytest.raises(UserError, match='--method group-fisher'):
        configs.write_prune()


def test_a_stage_runs_once(tmp_path):
    said = []
    road = Road(tmp_path, said.append)
    with road.alone():
        first = road.run(stage(result={'metrics': {'top1': 1.0}}), lambda record: 'well', '1/1')
        again = road.run(stage(result={'metrics': {'top1': 2.0}}), lambda record: 'well', '1/1')
    assert first == again == read_record('dense', tmp_path)
    assert first.commands == [['mmprune', '--version']]
    assert 'done before' in said[-1]
    assert 'mmprune' in (tmp_path / 'logs' / 'dense.log').read_text()


def test_a_command_that_fails(tmp_path):
    road = Road(tmp_path, lambda line: None)
    with road.alone(), pytest.raises(UserError, match=r'the stage dense failed with status 2(?s:.*)is no command'):
        road.run(stage(command=['nonsense']), lambda record: '', '1/1')
    assert read_record('dense', tmp_path) is None


@pytest.mark.parametrize(('metric', 'pruned', 'finetuned', 'is_worse'), [
    ('coco/AP', 0.9577, 0.9274, True), ('coco/AP', 0.8, 0.9274, False), ('NME', 0.05, 0.06, True),
    ('NME', 0.06, 0.05, False), ('coco/AP', 0.9, 0.9, False)])
def test_a_finetuning_that_makes_it_worse_is_told(metric, pruned, finetuned, is_worse):
    summary = Summary(metric, 0.9695)
    records = [StageRecord(stage, [], 1.0, '', dict(metrics={metric: value}))
               for stage, value in (('prune', pruned), ('test', finetuned), ('test-deployed', finetuned))]
    first, second, third = map(summary, records)
    assert ('worse than before the finetuning' in second) == is_worse
    assert not is_worse or f'({100 * pruned:.2f})' in second
    assert 'worse' not in first + third


def test_another_compression_in_the_folder(tmp_path):
    plan = plan_of(options(tmp_path), {})
    remembered(plan, tmp_path)
    remembered(plan_of(options(tmp_path, metric='mIoU'), {}), tmp_path)  # how it is looked at may change
    for changes, message in ((dict(target={'flops': 0.4}), 'target was'), (dict(threads=2), 'threads was 1 and is 2')):
        with pytest.raises(UserError, match=message):
            remembered(plan_of(options(tmp_path, **changes), {}), tmp_path)
    plan.options.pop('mutate_linear')  # of a version that had no such option
    write_plan(plan, tmp_path)
    remembered(plan_of(options(tmp_path), {}), tmp_path)


SLEEP = 'print("begun", flush=True); time.sleep(60)'
#: A worker of a data loader has what the command has: its output, and the lock of the folder.
WORKER = """
from mmengine.config import Config
from mmprune.engine.training_config import complete_loaders
complete_loaders(Config())
if not os.fork():
    print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel ends the children of a killed process')
@pytest.mark.parametrize('work', [SLEEP, WORKER], ids=['command', 'worker'])
def test_children_end_with_a_killed_road(tmp_path, work):
    """A road that is killed leaves nothing at work, so that the next one does not meet it."""
    code = f'''
        import subprocess, sys
        from pathlib import Path
        from mmprune.engine.compress import road
        road.subprocess.call = lambda command, **options: subprocess.Popen(
            [sys.executable, '-c', {'import os, time' + chr(10) + work!r}],
            **dict(options, stdout=None)).wait()
        one = road.Road(Path({str(tmp_path)!r}), print)
        with one.alone():
            one.command(['train'], 'prune')
    '''
    command = [sys.executable, '-c', textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'begun\n'
        process.kill()
        assert select.select([process.stdout], [], [], 20)[0], 'something outlives the road'
        assert process.stdout.read() == ''  # the pipe closes when the child has ended, too
    with Road(tmp_path, pytest.fail).alone():
        pass
