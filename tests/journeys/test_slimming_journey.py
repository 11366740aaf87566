"""Network Slimming as its users know it: sparsity training, prune, finetune, a fresh model, prune again, deploy."""
import copy
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from digits_runs import INPUT_SHAPE
from mmengine.config import Config
from mmengine.registry import DefaultScope
from paths import ROOT
from schedule_runs import CONFIG, FINETUNE, make_folder, run  # noqa: F401 (a fixture)
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import Everything, Residual, randomise

import mmprune
from mmprune.criteria.bn_scale import BNScale
from mmprune.criteria.criterion import UnscorableError
from mmprune.criteria.slimming_schema import SchemaError, make_schema, read_schema, votes_of, write_schema
from mmprune.deploy.load import load_model
from mmprune.deploy.onnx_export import export_onnx
from mmprune.units.mutator import ChannelMutator

pytestmark = pytest.mark.long

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [3, 16, 24, 24]
        self.features = nn.Sequential(*(
            layer for a, b in zip(widths, widths[1:])
            for layer in (nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())))
        self.classifier = nn.Linear(24, 5)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def mutator_of(model):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(model)
    return mutator


def train(model, steps, s=0.0):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(steps):
        x = torch.randn(16, 3, 8, 8, generator=generator)
        y = (x.mean((1, 2, 3)) * 20).long().clamp(0, 4)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if s:
            mmprune.bn_sparsity_(model, s)
        optimizer.step()
    return model.eval()


def test_journey_by_hand(tmp_path):
    model = train(Vgg(), 30, s=0.02)
    scales = torch.cat([module.weight.detach().abs() for module in model.modules()
                        if isinstance(module, nn.BatchNorm2d)])
    assert float(scales.mean()) < 0.85  # they start at 1
    threshold = scales.sort().values[int(0.75 * len(scales))]
    dense = copy.deepcopy(model)

    pruner = mmprune.Pruner(model, X, 'BNScale', target=dict(ratio=0.75), choice=dict(min_channels=2))
    pruner.cut()
    for unit in pruner.mutator.units:  # one threshold for all layers, but for the floor
        norm = next(member.axis.layer for member in unit.channels.members if member.axis.tensor.endswith('running_var'))
        above = (dense.get_submodule(norm).weight.detach().abs() >= threshold).numpy()
        assert (unit.kept == above).all() or int(unit.kept.sum()) == 2
    mmprune.save_structure(pruner, tmp_path / 'first.json', kept=True)  # apart from the weights

    again = mmprune.apply_structure(copy.deepcopy(dense), X, tmp_path / 'first.json')
    assert torch.equal(again(X), model(X))  # the same channels of the dense model

    train(model, 10, s=0.02)
    torch.save(model.state_dict(), tmp_path / 'finetuned.pth')
    fresh = mmprune.apply_structure(Vgg(), X, tmp_path / 'first.json')
    fresh.load_state_dict(torch.load(tmp_path / 'finetuned.pth'))
    assert torch.equal(fresh.eval()(X), model(X))

    second = mmprune.Pruner(fresh, X, 'BNScale', target=dict(ratio=0.3))
    before = second.mutator.cost['macs']
    second.cut()
    assert second.mutator.cost['macs'] < before
    mmprune.save_structure(second, tmp_path / 'second.json', kept=True)
    twice = mmprune.apply_structure(Vgg(), X, tmp_path / 'first.json')
    twice.load_state_dict(torch.load(tmp_path / 'finetuned.pth'))
    mmprune.apply_structure(twice, X, tmp_path / 'second.json')
    assert torch.equal(twice.eval()(X), fresh(X))

    export_onnx(fresh, X, tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    out, = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert np.abs(out - fresh(X).detach().numpy()).max() < 1e-5


def test_schema_by_hand(tmp_path):
    schema = make_schema(mutator_of(Residual()))
    assert schema == dict(prefix='', modules=[
        dict(name='stem', prev_bn='', next_bn='bn0'), dict(name='conv1', prev_bn='bn0', next_bn='bn1'),
        dict(name='conv2', prev_bn='bn1', next_bn='bn2'), dict(name='fc', prev_bn='bn2', next_bn='')],
        shortcuts=[dict(names=['bn0', 'bn2'], method='or')])
    write_schema(schema, tmp_path / 'schema.json')
    assert read_schema(tmp_path / 'schema.json') == schema


def test_prefix_is_cut_off_and_put_back():
    model = nn.Sequential()
    model.add_module('net', Residual())
    mutator = mutator_of(model)
    schema = make_schema(mutator, 'net.')
    assert schema == dict(make_schema(mutator_of(Residual())), prefix='net.')
    assert {name: say.norms for name, say in votes_of(schema, mutator).items()} == {
        'net.stem_(0, 6)_6': ['net.bn0', 'net.bn2'], 'net.conv1_(0, 5)_5': ['net.bn1']}
    with pytest.raises(SchemaError, match='no layer of a unit begins with it'):
        make_schema(mutator, 'backbone.')


@pytest.mark.parametrize('method', ['or', 'and'])
def test_edited_method_decides(method):
    mutator = mutator_of(randomise(Residual()))
    schema = make_schema(mutator)
    schema['shortcuts'][0]['method'] = method
    criterion = BNScale(schema=schema)
    criterion.bind(mutator)
    scales = torch.stack([mutator.model.bn0.weight.abs(), mutator.model.bn2.weight.abs()]).detach()
    wanted = scales.amax(0) if method == 'or' else scales.amin(0)
    assert torch.equal(criterion.score(mutator.units[0]), wanted)


def test_edits_leave_units_out():
    mutator = mutator_of(randomise(Residual()))
    whole = make_schema(mutator)
    without_shortcut = dict(whole, shortcuts=[])
    without_norm = dict(whole, modules=[dict(entry, next_bn='') if entry['name'] == 'conv1' else entry
                                        for entry in whole['modules']])
    without_module = dict(whole, modules=[entry for entry in whole['modules'] if entry['name'] != 'conv1'])
    stem, inner = mutator.units
    for schema, left in ((without_shortcut, stem), (without_norm, inner), (without_module, inner)):
        criterion = BNScale(schema=schema)
        criterion.bind(mutator)
        with pytest.raises(UnscorableError, match='the schema leaves unit'):
            criterion.score(left)
        pruner = mmprune.Pruner(copy.deepcopy(mutator.model), X, dict(type='BNScale', schema=schema),
                                target=dict(ratio=0.3))
        pruner.cut()
        assert pruner.mutator.structure[left.name] == left.width
        assert sum(pruner.mutator.structure.values()) < stem.width + inner.width
        assert left.name in pruner.report()


def test_one_of_two_norms_may_decide_alone():
    mutator = mutator_of(randomise(Residual()))
    schema = make_schema(mutator)
    schema['shortcuts'][0]['names'] = ['bn2']
    criterion = BNScale(schema=schema)
    criterion.bind(mutator)
    assert torch.equal(criterion.score(mutator.units[0]), mutator.model.bn2.weight.detach().abs())


@pytest.mark.parametrize(('edit', 'message'), [
    (lambda s: s['modules'][0].update(name='stam'), "no module 'stam', did you mean 'stem'"),
    (lambda s: s['modules'][1].update(next_bn='bn9'), "no module 'bn9'"),
    (lambda s: s['shortcuts'][0].update(method='xor'), "'xor', did you mean 'or'.*must be \"or\" or \"and\""),
    (lambda s: s['shortcuts'][0].update(names=['bn0', 'bn1']), 'do not go together'),
    (lambda s: s.pop('modules'), 'must be an object with'),
    (lambda s: s['modules'].append('conv'), r'modules\[4\]'),
    (lambda s: s['shortcuts'].append('bn0'), r'shortcuts\[1\]'),
])
def test_wrong_schema_says_where(edit, message):
    mutator = mutator_of(Residual())
    schema = make_schema(mutator)
    edit(schema)
    with pytest.raises(SchemaError, match=message):
        BNScale(schema=schema).bind(mutator)


def test_wrong_schema_files(tmp_path):
    with pytest.raises(SchemaError, match='write_schema.py writes one'):
        read_schema(tmp_path / 'none.json')
    (tmp_path / 'torn.json').write_text('{"prefix"')
    with pytest.raises(SchemaError, match='is not json'):
        read_schema(tmp_path / 'torn.json')


def test_schema_of_groups_and_linear_layers():
    mutator = mutator_of(randomise(Everything()))
    schema = make_schema(mutator)
    assert [entry['name'] for entry in schema['modules']] == [
        'stem', 'conv1', 'conv2', 'group', 'expand', 'dw', 'project', 'shared', 'mix', 'fc1', 'fc2']
    assert dict(name='fc1', prev_bn='bn7', next_bn='') in schema['modules']
    says = votes_of(schema, mutator)
    assert says['expand_(0, 20)_20'].norms == ['bn4', 'bn5']
    assert 'project_(0, 9)_9' not in says  # a layer without a norm produces it too


@pytest.mark.usefixtures('folder')
def test_journey_by_configs(folder, tmp_path):  # noqa: F811
    """Sparsity training, one shot, finetune, prune the finetuned model again, finetune, deploy."""
    weights = str(folder / 'dense.pth')
    with DefaultScope.overwrite_default_scope('mmcls'):
        def prune(name, base, checkpoint, ratio):
            schedule = dict(type='mmprune.OneShotPruningHook', criterion='BNScale',
                            target=dict(ratio=ratio, max_pruned_ratio=0.9))
            path = tmp_path / f'{name}.py'
            path.write_text(CONFIG.format(base=base, schedule=schedule, weights=checkpoint))
            run(path, tmp_path / name)
            return path, tmp_path / name / 'pruned.pth'

        def finetune(name, config, pruned):
            path = tmp_path / f'{name}.py'
            path.write_text(FINETUNE.format(prune=str(config), pruned=str(pruned)))
            return run(path, tmp_path / name)

        sparse = tmp_path / 'sparse.py'
        sparse.write_text(CONFIG.format(base=str(folder / 'dense.py'), weights=weights,
                                        schedule=dict(type='mmprune.SparsityTrainingHook', s=0.01)))
        runner = run(sparse, tmp_path / 'sparse', {'train_cfg.max_epochs': 1})
        torch.save(dict(state_dict=runner.model.architecture.state_dict()), tmp_path / 'sparse.pth')

        first, pruned = prune('first', str(folder / 'dense.py'), str(tmp_path / 'sparse.pth'), 0.75)
        structure = json.loads((tmp_path / 'first' / 'fix_subnet.json').read_text())
        widths = {name: int(name.rpartition('_')[2].split('#')[0]) for name in structure}
        assert sum(structure.values()) == sum(widths.values()) - int(0.75 * sum(widths.values()))
        finetune('finetune', first, pruned)

        smaller = tmp_path / 'smaller.py'
        smaller.write_text(f"_base_ = {str(folder / 'dense.py')!r}\nfrom mmprune.config import deploy_model\n"
                           f"model = deploy_model(_base_, {str(tmp_path / 'first' / 'fix_subnet.json')!r}, 1, "
                           f"{INPUT_SHAPE})\n")
        second, pruned = prune('second', str(smaller), str(tmp_path / 'finetune' / 'iter_5.pth'), 0.3)
        runner = finetune('finetune2', second, pruned)

        deploy = tmp_path / 'deploy.py'
        deploy.write_text(f"_base_ = {str(smaller)!r}\nfrom mmprune.config import deploy_model\n"
                          f"model = deploy_model(_base_, {str(tmp_path / 'second' / 'fix_subnet.json')!r}, 4, "
                          f"{INPUT_SHAPE})\n")
        model = load_model(Config.fromfile(deploy), str(tmp_path / 'finetune2' / 'iter_5.pth'))
        x = torch.randn(INPUT_SHAPE)
        export_onnx(model, x, tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    out, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    trained = runner.model.eval()
    with torch.no_grad():
        wanted = trained.head.fc(trained.neck(trained.extract_feat(x, stage='backbone'))[-1]).softmax(1)
    assert np.abs(out - wanted.numpy()).max() < 1e-4


def test_tool_writes_a_schema(tmp_path):
    out = tmp_path / 'schema.json'
    done = subprocess.run([sys.executable, '-W', 'ignore', 'tools/pruning/write_schema.py',
                           'configs/mmcls/digits/resnet-small_digits.py', '--shape', '1', '3', '32', '32', '--prefix',
                           'backbone.', '--out', str(out)], cwd=ROOT, capture_output=True, text=True, check=True)
    schema = json.loads(out.read_text())
    assert f'{len(schema["modules"])} modules, {len(schema["shortcuts"])} shortcuts' in done.stdout
    assert schema['prefix'] == 'backbone.'
    assert schema['modules'][0]['name'] == 'conv1'
    assert [len(shortcut['names']) for shortcut in schema['shortcuts']] == [3, 3]
