"""Segmentors of mmseg all the way: trained, pruned, finetuned, tested, deployed, on a tiny synthetic set."""
import json
import re

import numpy as np
import pytest
import torch
from digits_runs import make_runner, train
from paths import CONFIGS
from PIL import Image
from segmentation_runs import CLASSES, NETWORKS, SIZE, dense_config, write_shapes

from mmprune.commands import cost, units, verify
from mmprune.deploy.image import image_input
from mmprune.deploy.load import load_model
from mmprune.deploy.onnx_runtime import OnnxModel
from mmprune.models.from_config import read_config
from mmprune.units.complexity import amount

for package in ('mmseg', 'mmdeploy', 'onnxruntime'):
    pytest.importorskip(package)
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore')]  # mmseg's, mmdeploy's, and torch's tracer
SHAPE, TARGET = (1, 3, SIZE, SIZE), 0.8
#: The network whose heads, dimensions and stream go, too.
ATTENTION = 'segformer with attention'
PRUNE = f'''
_base_ = {{base!r}}
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {{weights!r}}, 1, 'flops', 0.1, {TARGET}, {SHAPE}, mutate_linear={{whole}})
train_cfg = dict(max_iters=400, val_interval=1000)
'''
FINETUNE = '''
_base_ = {prune!r}
from mmprune.config import finetune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, {pruned!r}, 2e-3)
train_cfg = dict(max_iters=60)
'''
DEPLOY = f'''
_base_ = {{base!r}}
from mmprune.config import deploy_model
model = deploy_model(_base_, {{fix_subnet!r}}, 4, {SHAPE}, mutate_linear={{whole}})
'''


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('shapes'))


class Road:
    """The stages of one network, each in a folder of its own, and what its Runner ended with."""

    def __init__(self, name, shapes, folder):
        self.name, self.shapes, self.folder, self.runners = name, shapes, folder, {}
        self.write('dense', dense_config(name.partition(' ')[0], shapes))
        whole = name == ATTENTION
        self.run('dense')
        self.write('prune', PRUNE.format(base=self.config('dense'), weights=self.file('dense', 'iter_150.pth'),
                                         whole=whole))
        self.run('prune')
        self.write('finetune', FINETUNE.format(prune=self.config('prune'),
                                               pruned=self.file('prune', f'flops_{TARGET:.2f}.pth')))
        self.run('finetune')
        self.write('deploy', DEPLOY.format(base=self.config('dense'),
                                           fix_subnet=self.file('finetune', 'fix_subnet.json'), whole=whole))

    def config(self, stage):
        return str(self.folder / f'{stage}.py')

    def file(self, stage, name):
        return str(self.folder / stage / name)

    def write(self, stage, text):
        (self.folder / f'{stage}.py').write_text(text)

    def run(self, stage):
        self.runners[stage] = make_runner(self.folder / f'{stage}.py', self.folder / stage,
                                          {'visualizer.name': f'{self.folder.name}_{stage}'})
        assert train(self.runners[stage]).ended == ['train', 'run']

    def structure(self, stage):
        return json.loads((self.folder / stage / 'fix_subnet.json').read_text())


@pytest.fixture(scope='module', params=[*NETWORKS, ATTENTION])
def road(request, shapes, tmp_path_factory):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Road(request.param, shapes, tmp_path_factory.mktemp(request.param))


def test_synchronised_norms_are_plain_ones_on_a_cpu(road):
    """In all stages, whatever the base says; ranks are a test of their own (test_distributed_segmentor.py)."""
    assert 'SyncBN' in str(read_config(road.config('prune')).model)
    models = {stage: runner.model for stage, runner in road.runners.items()}
    models['deploy'] = load_model(read_config(road.config('deploy')), road.file('finetune', 'iter_60.pth'))
    for stage, model in models.items():
        norms = {type(module).__name__ for module in model.modules() if hasattr(module, 'running_mean')}
        assert norms, stage
        assert 'SyncBatchNorm' not in norms, stage


def test_prune_run_ends_at_its_target_and_finetuning_keeps_the_structure(road):
    mutator = road.runners['prune'].model.mutator
    left, dense = (amount(cost, 'flops') for cost in (mutator.cost, mutator.complexity.cost({})))
    assert TARGET - 0.05 < left / dense <= TARGET
    assert road.structure('prune') == road.structure('finetune') == mutator.structure
    gone = {unit.channels.part for unit in mutator.units if unit.current_width < unit.width}
    assert gone == ({'', 'heads', 'qk', 'v'} if road.name == ATTENTION else {''})
    parameters = road.runners['finetune'].model.state_dict()
    for name, count in mutator.structure.items():
        assert '#' in name or parameters[f'{name.split("_(")[0]}.weight'].shape[0] == count


def test_commands_read_its_configs(road, capsys):
    units.main([road.config('prune')])
    cost.main([road.config('prune'), road.file('finetune', 'fix_subnet.json')])
    verify.main([road.config('prune'), '--seeds', '1'])
    printed = capsys.readouterr().out
    mutator = road.runners['prune'].model.mutator
    assert f'{len(mutator.units)} units may be pruned' in printed
    assert f'{mutator.cost["macs"]:,}' in printed
    assert f'{len(mutator.units)} units, largest relative difference' in printed


def test_finetuned_network_segments(road):
    """A network that sees the ground everywhere has a mean IoU of 27."""
    metrics = road.runners['finetune'].test()
    assert metrics['mIoU'] > 50


def test_deployed_file_gives_every_pixel_the_class_of_the_finetuned_network(road, capsys):
    from mmprune.commands.deploy import main
    image, out = road.shapes / 'images/val/000.png', road.folder / 'deployed'
    kind = 'static' if 'segformer' in road.name else 'dynamic'
    deploy_cfg = road.folder / f'{kind}.py'
    deploy_cfg.write_text(f"_base_ = '{CONFIGS}/deploy/segmentation_onnxruntime_{kind}.py'\n"
                          + (f'onnx_config = dict(input_shape=[{SIZE}, {SIZE}])\n' if kind == 'static' else ''))
    main([str(deploy_cfg), road.config('deploy'), road.file('finetune', 'iter_60.pth'), str(image), '--work-dir',
          str(out), '--rounds', '1'])
    printed = capsys.readouterr().out
    assert f'{SIZE * SIZE} of {SIZE * SIZE} pixels get the same class' in printed
    assert float(re.search(r'largest relative difference (\S+)', printed).group(1)) < 1e-4
    # the network before it was padded
    model = road.runners['finetune'].model.eval()
    x = image_input(read_config(road.config('deploy')), model, str(image))
    found = OnnxModel(out / 'end2end.onnx')(x)[0][0]
    with torch.no_grad():
        wanted = model(x, None, mode='predict')[0].pred_sem_seg.data
    assert torch.equal(found, wanted)
    assert len(found.unique()) == len(CLASSES)
    label = torch.from_numpy(np.array(Image.open(road.shapes / 'labels/val/000.png')))
    assert (found[0] == label).float().mean() > 0.8
