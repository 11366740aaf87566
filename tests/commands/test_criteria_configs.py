"""The configs of criteria with a schedule: they fit together, build, and leave the channels that their json says."""
import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from paths import ROOT

from mmprune.config import plain, schedule_settings
from mmprune.criteria.calibration import Calibration
from mmprune.criteria.criterion import build_criterion
from mmprune.engine.forecast import forecast, schedule_of
from mmprune.pruning.plan import make_plan
from mmprune.pruning.target import TargetError
from mmprune.registry import HOOKS, MODELS
from mmprune.units.structure import StructureError, check_structure

FOLDER = ROOT / 'configs' / 'mmcls'
CRITERIA = ('fpgm', 'thinet', 'apoz', 'filter_norm', 'network_slimming', 'taylor')
BY_WEIGHTS = ('network_slimming', 'taylor')  # folders of configs whose counts only a run can tell
ALL = sorted(path.relative_to(FOLDER).as_posix() for name in CRITERIA for path in (FOLDER / name).glob('*.py'))
PRUNE = [name for name in ALL if '_prune_' in name and not name.endswith('_scratch.py')]
SHARES = [name for name in PRUNE if not name.startswith(BY_WEIGHTS)]
WEIGHTS = [name for name in PRUNE if name.startswith(BY_WEIGHTS)]
DEPLOY_BY_WEIGHTS = [name for name in ALL if '_deploy_' in name and name.startswith(BY_WEIGHTS)]


def stage(name: str, other: str, suffix: str = '.py') -> str:
    return name.replace('_prune_', other).replace('.py', suffix)


def stem(name: str) -> str:
    return Path(name).stem


@lru_cache(maxsize=None)
def read(name: str) -> Config:
    return Config.fromfile(FOLDER / name)


def read_deploy(name: str, folder: Path, monkeypatch) -> Config:
    """Read a deploy config in a folder where the finetuning that it names wrote a structure, if it names one."""
    monkeypatch.chdir(folder)
    if name.startswith(BY_WEIGHTS):
        place = folder / 'work_dirs' / stem(name).replace('_deploy_', '_finetune_')
        place.mkdir(parents=True, exist_ok=True)
        (place / 'fix_subnet.json').write_text('{"made up": 1}')
    return Config.fromfile(FOLDER / name)


def dense_model(cfg: Config) -> dict:
    """Return the algorithm of a prune config without weights."""
    init_default_scope(cfg.default_scope)
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    return model


class Algorithms:
    """Algorithms with random weights, one for each model; of the large ones, the last only."""

    def __init__(self):
        self.small, self.large = {}, {}

    def __call__(self, name: str):
        model = dense_model(read(name))
        large = name.endswith('in1k.py')
        if large:  # the proof by a cut is for other tests
            model['mutator']['trial_cut'] = False
            if 'resnet' in name:
                model['mutator']['demo_input']['input_shape'] = (1, 3, 64, 64)  # units do not depend on it
        store, key = self.large if large else self.small, repr(model)
        if key not in store:
            if large:
                store.clear()
            store[key] = MODELS.build(model)
        return store[key]


@pytest.fixture(scope='module')
def algorithm_of():
    return Algorithms()


def by_model(names):
    return sorted(names, key=lambda name: (stem(name).split('_prune_')[1], 'fpgm' in name or 'apoz' in name, name))


@pytest.mark.parametrize('name', ALL)
def test_arguments_stand_at_the_top_each_with_its_comment(name):
    text = (FOLDER / name).read_text()
    assert len(text.splitlines()) <= 45
    lines = re.split(r'\n\n(?:from mmprune\.config import|custom_hooks = )', text)[0].split('\n')
    places = [number for number, line in enumerate(lines) if re.match(r'\w+ = ', line)]
    assert lines[places[0]].startswith('_base_ = ')
    assert all(lines[number - 1].startswith('# ') for number in places)
    read_arguments = [lines[number].split(' = ')[0] for number in places][1:]
    rest = text[text.index('\n\n'):]
    assert [one for one in read_arguments if not re.search(rf'\b{one}\b', rest)] == []  # none is there for nothing


@pytest.mark.parametrize('name', ALL)
def test_dumped_config_is_flat_and_the_same(name, tmp_path, monkeypatch):
    # laying out what is dumped takes long and changes nothing
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **options: (text, True))
    cfg = read_deploy(name, tmp_path, monkeypatch) if '_deploy_' in name else read(name)
    cfg.dump(tmp_path / 'dumped.py')
    text = (tmp_path / 'dumped.py').read_text()
    assert '_base_ =' not in text
    assert 'import' not in text
    again = Config.fromfile(tmp_path / 'dumped.py')
    for key in ('model', 'optim_wrapper', 'custom_hooks', 'param_scheduler', 'train_cfg'):
        assert plain(again.get(key)) == plain(cfg.get(key)), key


@pytest.mark.parametrize('name', PRUNE)
def test_stages_fit_together(name, tmp_path, monkeypatch):
    prune, tune = read(name), read(stage(name, '_finetune_'))
    deploy = read_deploy(stage(name, '_deploy_'), tmp_path, monkeypatch)
    model = dense_model(prune)
    algorithm = plain(tune.model.algorithm)
    assert algorithm.pop('init_cfg')['checkpoint'] == tune.pruned_path == f'work_dirs/{stem(name)}/pruned.pth'
    assert algorithm == model
    assert plain(deploy.model.architecture) == model['architecture']
    assert plain(deploy.model.demo_input) == model['mutator']['demo_input']
    assert deploy.model.mutate_linear == model['mutator']['channel_unit_cfg']['mutate_linear']
    assert prune.model_wrapper_cfg.type == 'mmprune.ShrinkingDDP'
    assert tune.model_wrapper_cfg.type == 'mmprune.PortableDDP'
    assert [hook.type for hook in tune.custom_hooks] == ['mmprune.ExactResumeHook', 'mmprune.PruningStructureHook']
    assert tune.optim_wrapper.optimizer.lr == tune.finetune_lr
    assert tune.train_cfg.max_epochs == tune.epochs
    for hook in prune.custom_hooks:
        HOOKS.build(plain(hook))


@lru_cache(maxsize=None)
def public_weights(folder: str) -> dict:
    import mmcls
    models = yaml.safe_load((Path(mmcls.__file__).parent / '.mim' / 'configs' / folder / 'metafile.yml').read_text())
    return {model['Config']: model.get('Weights') for model in models['Models']}


@pytest.mark.parametrize('name', PRUNE)
def test_checkpoints_are_those_of_the_dense_model(name):
    cfg = read(name)
    line = (FOLDER / name).read_text().split('_base_ = ')[1].split('\n')[0].strip("'")
    path = cfg.pretrained_path
    assert cfg.model.architecture.init_cfg.checkpoint == path
    if path.startswith('https://'):
        folder = line.split('::')[1].split('/')[0]
        assert path == public_weights(folder)[f'configs/{line.split("::")[1]}']
        return
    _, run, file = path.split('/')
    if name.startswith('network_slimming'):
        dense = read(f'network_slimming/{run}.py')
        assert run == stem(name).replace('_prune_', '_sparsity_')
        assert plain(dense.custom_hooks) == [dict(type='mmprune.SparsityTrainingHook', s=1e-4)]
        HOOKS.build(plain(dense.custom_hooks[0]))
        base = get_config(line) if '::' in line else read(line[3:])
        assert dict(plain(dense.model), _scope_='mmcls') == dict(plain(base.model), _scope_='mmcls')
    else:
        assert line == f'../cifar10/{run}.py'
        dense = read(line[3:])
    assert file == f'epoch_{dense.train_cfg.max_epochs}.pth'


@pytest.mark.parametrize('name', by_model(SHARES))
def test_structure_is_what_the_rates_leave(name, algorithm_of):
    algorithm = algorithm_of(name)
    before = dict(algorithm.mutator.structure)
    structure = json.loads((FOLDER / stage(name, '_', '.json')).read_text())
    schedule = schedule_of(read(name))
    if name.startswith('fpgm') and ('in1k' in name or 'vgg' in name):  # distances between many filters take long
        schedule.criterion_cfg = 'L2'
    assert forecast(schedule, algorithm) == structure
    check_structure(structure, algorithm.mutator.units)
    assert list(structure) == list(before)
    assert algorithm.mutator.structure == before


@pytest.mark.parametrize('name', ['thinet/thinet_prune_vgg16_1xb128_cifar10.py',
                                  'apoz/apoz_prune_vgg16_1xb128_cifar10.py'])
def test_criteria_of_data_leave_the_same_counts(name, algorithm_of):
    algorithm = algorithm_of(name)
    algorithm.init_weights()
    schedule = schedule_of(read(name))
    schedule.bind(algorithm)
    calibrate(schedule.criterion, algorithm, 32)
    masks = make_plan(algorithm.mutator, schedule.criterion, schedule.target).masks
    structure = json.loads((FOLDER / stage(name, '_', '.json')).read_text())
    assert {unit: int(mask.sum()) for unit, mask in masks.items()} == structure


def calibrate(criterion, algorithm, size: int) -> None:
    model = algorithm.architecture

    def loss(x):
        out = model(x)
        return torch.cat([one.flatten(1) for one in (out if isinstance(out, tuple) else (out,))], 1).square().mean()

    criterion.calibrate(Calibration([torch.randn(2, 3, size, size)], loss))


@pytest.mark.parametrize('name', by_model(WEIGHTS))
def test_plan_by_random_weights_reaches_its_target(name, algorithm_of):
    algorithm = algorithm_of(name)
    mutator = algorithm.mutator
    for module in algorithm.modules():  # a sparsity training leaves scales of all sizes
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.trunc_normal_(module.weight, 0.5, 0.2, 0.0, 1.0)
    schedule = schedule_of(read(name))
    with pytest.raises(TargetError, match="with scope='global' takes the least channels of all units"):
        forecast(schedule, algorithm)
    schedule.bind(algorithm)
    target = schedule.target
    if schedule.criterion.needs_data:
        size = 224 if 'vgg16bn' in name else 32
        calibrate(schedule.criterion, algorithm, size)
    plan = make_plan(mutator, schedule.criterion, target)
    least = {unit.name: unit.kept.size - int(target.max_pruned_ratio * unit.kept.size + 1e-9) for unit in mutator.units}
    assert all(mask.sum() >= least[unit] for unit, mask in plan.masks.items())
    if target.ratio is not None:
        scored = [unit for unit in mutator.units if unit.name not in plan.skipped]
        gone = sum(int((~plan.masks[unit.name]).sum()) * unit.multiplicity for unit in scored)
        assert gone == int(target.ratio * sum(unit.width for unit in scored) + 1e-9)
    else:
        complexity = mutator.complexity
        share = complexity.cost(mutator.surgery.widths_with(plan.masks))['macs'] / complexity.cost({})['macs']
        assert 0.48 < share <= target.flops == 0.5


def test_only_linear_layers_without_norms_have_no_scale(algorithm_of):
    name = 'network_slimming/network_slimming_prune_vgg16bn_8xb32_in1k.py'
    algorithm = algorithm_of(name)
    plan = make_plan(algorithm.mutator, build_criterion('BNScale', algorithm.mutator), schedule_target(name, algorithm))
    assert list(plan.skipped) == ['backbone.classifier.0_(0, 4096)_4096', 'backbone.classifier.3_(0, 4096)_4096']


def schedule_target(name, algorithm):
    schedule = schedule_of(read(name))
    schedule.bind(algorithm)
    return schedule.target


@pytest.mark.parametrize('name', DEPLOY_BY_WEIGHTS)
def test_deploy_config_says_that_finetuning_comes_first(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = f"work_dirs/{stem(name).replace('_deploy_', '_finetune_')}/fix_subnet.json"
    with pytest.raises(StructureError, match=re.escape(f'there is no file {wanted!r}. A prune run writes')):
        Config.fromfile(FOLDER / name)


@pytest.mark.parametrize('name', ['fpgm/fpgm_prune_resnet20_1xb128_cifar10.py',
                                  'network_slimming/network_slimming_prune_repvgg-a0_1xb128_cifar10.py'])
def test_pruned_finetuned_deployed(name, tmp_path, monkeypatch):
    """The checkpoint of each stage goes into the next."""
    algorithm = MODELS.build(dense_model(read(name)))
    schedule = schedule_of(read(name))
    schedule.bind(algorithm)
    algorithm.cut(make_plan(algorithm.mutator, schedule.criterion, schedule.target, only=schedule.only()).masks)
    torch.save(dict(state_dict=algorithm.state_dict()), tmp_path / 'pruned.pth')
    tune = plain(read(stage(name, '_finetune_')).model)
    tune['algorithm']['init_cfg']['checkpoint'] = str(tmp_path / 'pruned.pth')
    tuned = MODELS.build(tune)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(outputs(tuned, x), outputs(algorithm.architecture, x))
    cfg = read_deploy(stage(name, '_deploy_'), tmp_path, monkeypatch)
    if name.startswith(BY_WEIGHTS):
        cfg.model.fix_subnet = dict(tuned.fix_subnet)
    assert cfg.model.fix_subnet == tuned.fix_subnet
    deployed = MODELS.build(plain(cfg.model))
    deployed.load_state_dict(tuned.state_dict())
    deployed.switch_to_deploy()
    torch.testing.assert_close(outputs(deployed, x), outputs(tuned, x), rtol=1e-4, atol=1e-5)
    assert all(count % cfg.divisor == 0 for count in deployed.fix_subnet.values())


def outputs(model, x):
    with torch.no_grad():
        return model.eval()(x, mode='tensor')[-1]


def test_branches_of_a_pruned_repvgg_are_merged():
    algorithm = MODELS.build(dense_model(read('network_slimming/network_slimming_prune_repvgg-a0_1xb128_cifar10.py')))
    algorithm.mutator.apply_structure({unit.name: unit.width // 2 for unit in algorithm.mutator.units})
    model, x = algorithm.architecture.eval(), torch.randn(2, 3, 32, 32)
    before = outputs(model, x)
    for block in model.modules():
        if hasattr(block, 'branch_3x3'):  # mmcls merges by the channels that a block was built with
            conv = block.branch_3x3.conv
            block.in_channels, block.out_channels = conv.in_channels, conv.out_channels
    model.backbone.switch_to_deploy()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(outputs(model, x), before, rtol=1e-4, atol=1e-4)


def counts(name: str) -> list:
    return list(json.loads((FOLDER / name).read_text()).values())


def test_counts_by_hand():
    assert counts('fpgm/fpgm_resnet20_1xb128_cifar10.json') == 4 * [10] + 4 * [20] + 4 * [39]  # 16, 32, 64 less 40 %
    assert sorted({*counts('fpgm/fpgm_resnet50_8xb32_in1k.json')}) == [39, 77, 154, 308, 615, 1229]
    assert sorted({*counts('thinet/thinet_70_resnet50_8xb32_in1k.json')}) == [
        45, 64, 90, 180, 256, 359, 512, 1024]  # 64, 128, 256, 512 less 30 %; the stem and three shortcuts stay
    assert counts('thinet/thinet_conv_vgg16bn_8xb32_in1k.json') == [
        32, 32, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512]
    # what the script of he-y writes out: PFEC_vggprune.py
    assert counts('filter_norm/l1_vgg16_1xb128_cifar10.json') == [32, 64, 128, 128] + 9 * [256]
    # the last of the structures that Hu et al. went through
    assert counts('apoz/apoz_vgg16bn_8xb32_in1k.json')[-3:] == [390, 1513, 4096]


def test_skipped_layers_of_li_et_al():
    for depth, skipped in ((56, [16, 18, 20, 34, 38, 54]), (110, [36, 38, 74])):
        structure = json.loads((FOLDER / f'filter_norm/l1_resnet{depth}_1xb128_cifar10.json').read_text())
        blocks = (depth - 2) // 6
        first = {(int(one[1]), int(one[2])): count for one, count in (
            (re.match(r'backbone\.layer(\d)\.(\d+)\.conv1_', unit), count) for unit, count in structure.items()) if one}
        dense = [2 + 2 * ((layer - 1) * blocks + block) for (layer, block), count in first.items()
                 if count == 8 * 2**layer]
        assert dense == skipped  # the first convolution of block k is layer 2 k + 2


@pytest.mark.parametrize(('depth', 'layer_end'), [(18, 57), (34, 105), (50, 156), (101, 309), (152, 462)])
def test_fpgm_is_as_its_authors_run_it(depth, layer_end):
    cfg = read(f'fpgm/fpgm_prune_resnet{depth}_8xb32_in1k.py')
    hook = next(hook for hook in cfg.custom_hooks if hook.type == 'mmprune.SoftPruningHook')
    assert plain(hook) == dict(type='mmprune.SoftPruningHook', rate_norm=1, rate_dist=0.4,
                               layers=dict(begin=0, end=layer_end, step=3), epoch_prune=1)
    assert cfg.train_cfg.max_epochs == 100
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.01)
    assert plain(cfg.param_scheduler)['milestones'] == [30, 60, 90]


@pytest.mark.parametrize('keep', [70, 50, 30])
def test_learning_rate_of_thinet_rises_when_the_last_layer_is_cut(keep):
    cfg = read(f'thinet/thinet_{keep}_prune_resnet50_8xb32_in1k.py')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(plain(one), optimizer=optimizer)) for one in cfg.param_scheduler]
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    # 32 layers go, one before each epoch; the last is followed by nine epochs
    assert rates == pytest.approx([1e-4] * 31 + [1e-3] * 3 + [1e-4] * 3 + [1e-5] * 3)


def test_from_scratch():
    cfg = read('filter_norm/l1_prune_vgg16_1xb128_cifar10_scratch.py')
    assert 'init_cfg' not in cfg.model.architecture
    assert cfg.custom_hooks[-1].stop is False
    assert cfg.optim_wrapper.optimizer.lr == 0.1
    base = read('cifar10/resnet20_1xb128_cifar10.py')
    model, *_ = schedule_settings(base, dict(type='mmprune.SoftPruningHook'), None, (1, 3, 32, 32))
    assert 'init_cfg' not in model['architecture']


def test_forecast_needs_a_schedule():
    with pytest.raises(TargetError, match='no pruning schedule among its custom_hooks'):
        schedule_of(read('cifar10/resnet20_1xb128_cifar10.py'))


def test_forecast_by_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(ROOT / 'tools/pruning/forecast_structure.py'),
         str(FOLDER / 'fpgm/fpgm_prune_resnet20_1xb128_cifar10.py'), '--out', str(tmp_path / 'structure.json')],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'structure.json').read_text() == (FOLDER / 'fpgm/fpgm_resnet20_1xb128_cifar10.json').read_text()
