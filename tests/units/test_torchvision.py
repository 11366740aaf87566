"""A torchvision model of every family, masked and cut, by the sweep of all that writes docs/torchvision.md."""
import importlib.util
import json
import sys

import pytest
from paths import ROOT

pytest.importorskip('torchvision')
pytestmark = pytest.mark.full


def load(name):
    """Return a script of benchmarks/ as a module."""
    if name not in sys.modules:
        path = ROOT / 'benchmarks' / f'{name}.py'
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


for imported in ('sweep_models', 'isolated'):  # by the other one
    load(imported)
sweep_torchvision = load('sweep_torchvision')

#: Model -> its units, counted by hand; a stream is what the blocks of a stage add to or pass on.
UNITS = {
    'resnet18': 4 + 8,  # streams, the first with the stem, and the first conv of each block
    'densenet121': 1 + 58 * 2 + 3,  # the stem, two convs of each dense layer, the transitions
    'googlenet': 3 + 9 * 6,  # three convs before the inceptions, which have six each
    'squeezenet1_0': 1 + 8 * 3,  # the stem, three convs of each fire module
    'mobilenet_v3_small': 1 + 5 + 10 + 9 + 2,  # the stem, streams, expansions, gates, last conv and hidden layer
    'shufflenet_v2_x0_5': 1 + 16 + 2 + 1,  # the stem, inside of each block, two streams of three, the last conv
    'efficientnet_b0': 1 + 7 + 15 + 16 + 1,  # the stem, streams, expansions, gates, the last conv
    'regnet_x_400mf': 1 + 4 + 22 * 2,  # the stem, streams, two convs of each block
    'mnasnet0_5': 2 + 6 + 16 + 1,  # the stem's two convs, streams, expansions, the last conv
    'convnext_tiny': 18 + 4}  # the hidden units of each block, the stream of each stage
#: Groups of channels that stay; the two of each auxiliary head of GoogLeNet save nothing at inference.
FROZEN = {'googlenet': 2 * 2, 'shufflenet_v2_x0_5': 1}


def check(name, model, size):
    result = sweep_torchvision.sweep(model, size)
    for criterion in ('L2', 'Random'):
        one = result[criterion]
        print(f'{name}, {criterion}: {result["units"]} units, {one["eval"]:.1e} in eval, {one["train"]:.1e} in train, '
              f'{result["share"]:.0%} of the MACs can go, {one["macs"] / result["macs"]:.0%} are left')
    assert sweep_torchvision.problems(name, result) == []
    assert result['L2']['macs'] != result['Random']['macs']  # every unit has a share of its own
    return result


@pytest.mark.parametrize('name', UNITS)
def test_convolutional_model(name):
    result = check(name, sweep_torchvision.build(name), sweep_torchvision.size_of(name))
    assert result['units'] == UNITS[name]
    assert sum(result['reasons'].values()) == FROZEN.get(name, 0)


def vit():
    from torchvision.models.vision_transformer import VisionTransformer
    return VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=128, num_classes=10)


def swin(version):
    from torchvision.models import swin_transformer as module
    options = {} if version == 1 else dict(block=module.SwinTransformerBlockV2,
                                           downsample_layer=module.PatchMergingV2)
    return module.SwinTransformer([4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4],
                                  num_classes=10, **options)


def maxvit():
    from torchvision.models.maxvit import MaxVit
    return MaxVit((32, 32), stem_channels=8, partition_size=2, block_channels=[8, 16], block_layers=[1, 1], head_dim=4,
                  stochastic_depth_prob=0.2, num_classes=10)


@pytest.mark.filterwarnings('ignore:torch.meshgrid')  # MaxVit's own
@pytest.mark.parametrize(('name', 'build', 'units'), [
    ('vit', vit, 3 * 4 + 1),  # an MLP, heads and their dimensions twice a block; the stream
    ('swin', lambda: swin(1), (2 + 2) * 4 + 2),  # two stages
    ('swin_v2', lambda: swin(2), (2 + 2) * 5 + 2),  # the position bias of each block comes from an MLP, too
    # the stem; expansion, gate and two attentions of each block; the head; two streams
    ('maxvit', maxvit, 2 + 2 * (2 + 2 * 4) + 1 + 2)])
def test_heads_dimensions_and_streams_go(name, build, units):
    model = build()
    sweep_torchvision.randomise(model, seed=0)
    result = check(name, model, size=32)
    assert result['units'] == units
    assert not any('attention' in reason or 'layer_norm' in reason for reason in result['reasons'])


def test_all_classification_models_are_swept_from_small_to_large():
    names = sweep_torchvision.names()
    assert len(names) == 80
    assert names[0].startswith('squeezenet')
    assert {*names[-3:]} == {'vit_l_32', 'vit_h_14', 'regnet_y_128gf'}
    assert not any('quantized' in name or 'fcn' in name or 'rcnn' in name for name in names)


GOOD = dict(name='resnet18', units=12, reasons={'because': 2}, seconds=1.0, size=64, params=1000, macs=4000, share=0.99,
            unaccounted=[], backward=True, peak_gib=0.5, cpu_seconds=2.0,
            **{name: dict(eval=1e-15, train=2e-15, moved=0.5, macs=1600, params=400, same_shapes=True, finite=True,
                          counted=[1600, 400]) for name in ('L2', 'Random')})


@pytest.mark.parametrize(('criterion', 'change', 'problem'), [
    ('L2', dict(eval=1e-6), 'L2, eval: 1.0e-06'), ('Random', dict(train=float('nan')), 'Random, train: nan'),
    ('L2', dict(same_shapes=False), 'L2: not same_shapes'), ('L2', dict(finite=False), 'L2: not finite'),
    ('L2', dict(moved=1e-9), 'L2: masking moves the outputs by 1.0e-09 only'),
    ('L2', dict(counted=[1600, 401]), 'L2: MACs and parameters 1600, 400 by arithmetic, [1600, 401] counted'),
    (None, dict(backward=False), 'backward'), (None, dict(unaccounted=['fc.weight']), 'unaccounted: fc.weight'),
    (None, dict(share=0.7), 'only 70% of the MACs can go'), (None, dict(error='MemoryError: x'), 'MemoryError: x')])
def test_a_broken_promise_is_told(criterion, change, problem):
    assert sweep_torchvision.problems('resnet18', GOOD) == []
    changed = {**GOOD, **change} if criterion is None else {**GOOD, criterion: {**GOOD[criterion], **change}}
    assert sweep_torchvision.problems('resnet18', changed) == [problem]


def test_page_names_what_failed_and_what_did_not_run(tmp_path):
    lines = [dict(name='alexnet', error='an old result, which the next one replaces'), dict(GOOD, name='alexnet'), GOOD,
             dict(name='vgg11', error='not finished within 300 s')]
    results = tmp_path / 'results.jsonl'
    results.write_text('\n'.join(map(json.dumps, lines)))
    page = sweep_torchvision.document(sweep_torchvision.read(results))
    assert '| resnet18 | 64 | 0.0 | 12 | 1.0e-15 | 2.0e-15 | 40% | 40% | 99% | 2 | 2 |' in page
    assert '2 of 80 models ran; the largest difference is 2.0e-15' in page
    assert 'These do not hold: vgg11 (not finished within 300 s).' in page
    assert 'Not run, with an estimate of the memory they need: squeezenet1_1 (0.0 GiB), ' in page
    assert '| because | 4 | resnet18 2, alexnet 2 |' in page


def test_a_model_has_so_much_time_only():
    result = sweep_torchvision.in_process('resnet18', 'cpu', limit=16, timeout=0.0)
    assert result == dict(name='resnet18', error='not finished within 0 s')
