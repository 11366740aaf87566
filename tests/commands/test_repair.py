"""``mmprune repair``: what it writes loads as before and is nearer to the dense network; what it refuses."""
import pytest
import torch
from detection_runs import read_small
from digits_runs import FINETUNE, write_prune_config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from paths import ROOT
from segmentation_runs import SIZE, dense_config, write_shapes

from mmprune.commands import main, repair
from mmprune.config import plain
from mmprune.deploy.load import fill_randomly, load_model
from mmprune.models.checkpoint import load_weights
from mmprune.models.from_config import read_config
from mmprune.registry import MODELS


@pytest.fixture(autouse=True)
def local_rank(monkeypatch):
    """The command sets it if nothing else does."""
    monkeypatch.setenv('LOCAL_RANK', '0')


def write_pruned(config, folder):
    """Write ``dense.pth`` and ``pruned.pth``: 70 % of every unit of a prune config."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    algorithm = MODELS.build(plain(cfg.model))
    mutator = algorithm.mutator
    fill_randomly(algorithm.architecture, mutator.demo_input)
    mutator.release()
    torch.save(dict(state_dict=dict(algorithm.architecture.state_dict())), folder / 'dense.pth')
    mutator.apply_structure({unit.name: max(1, int(0.7 * unit.num_sets)) * unit.multiplicity for unit in mutator.units})
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('a', 'b'))), state_dict=algorithm.state_dict(),
                    optimizer=dict()), folder / 'pruned.pth')


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """The folder with a dense and a pruned checkpoint, a prune and a finetune config."""
    folder = tmp_path_factory.mktemp('repair')
    write_pruned(write_prune_config(folder), folder)
    (folder / 'finetune.py').write_text(FINETUNE.format(prune=str(folder / 'prune.py'),
                                                        pruned=str(folder / 'pruned.pth')))
    return folder


def repaired(folder, *options, config='prune.py', pruned='pruned.pth', out='out.pth'):
    main(['repair', str(folder / config), str(folder / pruned), '--dense', str(folder / 'dense.pth'), '--images', '60',
          '--out', str(folder / out), *options])
    return torch.load(folder / out, weights_only=True)


def rows_of(text):
    """Return row -> its numbers, of the table that is printed."""
    lines = [line.rsplit(None, 3) for line in text.splitlines()]
    start = next(place for place, line in enumerate(lines) if line == ['dense', 'cut', 'repaired'])
    return {line[0]: [float(value) for value in line[1:]] for line in lines[start + 1:-1]}


def test_what_is_written_loads_as_before_and_is_nearer_to_the_dense_network(digits, capsys):
    saved = repaired(digits)
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert [*rows] == ['accuracy/top1', 'output error']
    assert rows['output error'][0] == 0
    assert 0 < rows['output error'][2] < 0.5 * rows['output error'][1]
    before = torch.load(digits / 'pruned.pth', weights_only=True)
    assert {key: value.shape for key, value in saved['state_dict'].items()} == {
        key: value.shape for key, value in before['state_dict'].items()}
    assert (saved['meta'], {*saved}) == (dict(dataset_meta=dict(classes=['a', 'b'])), {'meta', 'state_dict'}) or \
        saved['meta'] == before['meta']
    # another reading of the file, on the digits of the test
    cfg = Config.fromfile(digits / 'prune.py')
    dense = MODELS.build(plain(Config.fromfile(digits / 'dense.py').model))
    load_weights(dense, str(digits / 'dense.pth'))
    data = next(iter(Runner.build_dataloader(plain(cfg.val_dataloader))))
    errors = []
    for name in ('pruned.pth', 'out.pth'):
        algorithm = MODELS.build(plain(cfg.model))
        algorithm.load_pruned(str(digits / name))
        with torch.no_grad():
            images = dense.data_preprocessor(data, False)['inputs']
            errors.append(float((algorithm.eval()(images) - dense.eval()(images)).square().sum()))
    assert errors[1] < errors[0]
    assert repaired(digits, '--no-test')['state_dict'].keys() == saved['state_dict'].keys()
    assert [*rows_of(capsys.readouterr().out)] == ['output error']
    again = torch.load(digits / 'out.pth', weights_only=True)['state_dict']
    assert all(torch.equal(value, again[key]) for key, value in saved['state_dict'].items())  # evaluating moves nothing


def test_a_finetuned_checkpoint_takes_its_finetune_config(digits, capsys):
    state = torch.load(digits / 'pruned.pth', weights_only=True)['state_dict']
    torch.save({key[len('architecture.'):]: value for key, value in state.items() if key.startswith('architecture.')},
               digits / 'epoch_1.pth')
    with pytest.raises(SystemExit):
        repaired(digits, pruned='epoch_1.pth')
    assert capsys.readouterr().err.endswith(
        "epoch_1.pth' holds no pruned structure, which says what channels stay; give a checkpoint of a prune run, such "
        'as flops_0.50.pth, or for a finetuned one its finetune config, which names that of the prune run\n')
    saved = repaired(digits, '--no-test', config='finetune.py', pruned='epoch_1.pth')['state_dict']
    assert {*saved} == {key[len('architecture.'):] for key in state if key.startswith('architecture.')}
    error = rows_of(capsys.readouterr().out)['output error']
    assert error[2] < 0.5 * error[1]
    model = load_model(read_config(str(digits / 'finetune.py')), str(digits / 'out.pth'))
    assert torch.equal(model.backbone.conv1.weight, saved['backbone.conv1.weight'])


@pytest.mark.parametrize('how', ['bias', 'norms'])
def test_less_than_all_changes_less(how, digits, capsys):
    before = torch.load(digits / 'pruned.pth', weights_only=True)['state_dict']
    saved = repaired(digits, '--no-test', '--how', how)['state_dict']
    changed = {key for key, value in saved.items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith(('running_mean', 'running_var') if how == 'norms' else (
        'running_mean', 'running_var', 'bias')) for key in changed)
    rows = rows_of(capsys.readouterr().out)['output error']
    assert how == 'norms' or rows[2] < rows[1]


@pytest.mark.parametrize(('arguments', 'message'), [
    (('dense.pth', '--dense', 'dense.pth'), "'dense.pth' holds no pruned structure, which says what channels stay"),
    (('pruned.pth', '--dense', 'pruned.pth'), "--dense: 'pruned.pth' is a checkpoint of a prune run; give that of the "
                                              'dense network, from which the run started (pretrained_path of its'),
    (('pruned.pth', '--dense', 'other.pth'), "--dense: 'other.pth' is not a checkpoint of this ImageClassifier"),
    (('pruned.pth', '--dense', 'none.pth'), "--dense: there is no file 'none.pth'"),
    (('none.pth', '--dense', 'dense.pth'), "PRUNED: there is no file 'none.pth'"),
    (('pruned.pth', '--dense', 'dense.pth', '--images', '0'), "argument --images: '0' is no whole number from 2 to "),
    (('pruned.pth', '--dense', 'dense.pth', '--device', 'cuda:77'), "'cuda:77' is not there: torch sees no such"),
    (('pruned.pth', '--dense', 'dense.pth', '--cfg-options', 'train_dataloader=None'),
     'the config has no train_dataloader, whose images a repair is made of'),
    (('pruned.pth', '--dense', 'dense.pth', '--cfg-options', 'train_dataloader.dataset.indices=1'),
     'train_dataloader of the config has 1 images; a repair takes two or more')])
def test_mistakes_are_one_line(arguments, message, digits, capsys, monkeypatch):
    monkeypatch.chdir(digits)
    torch.save(dict(state_dict={'fc.weight': torch.zeros(2, 2)}), 'other.pth')
    with pytest.raises(SystemExit) as ended:
        main(['repair', 'prune.py', *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count('\n') == 1
    assert message in error


def test_data_of_the_evaluation_that_are_missing_are_named(digits, capsys, monkeypatch):
    def missing(cfg):
        raise FileNotFoundError("there is no file 'nowhere.txt'")

    monkeypatch.setattr(repair, 'evaluation_of', missing)
    repaired(digits)
    assert "not evaluated: there is no file 'nowhere.txt'" in capsys.readouterr().out


DETECTOR = '''
_base_ = {base!r}
custom_imports = dict(imports=['uneven_images'], allow_failed_imports=False)
from mmprune.config import pruning_model
model = pruning_model(_base_, None, (1, 3, 64, 96))
'''


@pytest.mark.full
@pytest.mark.filterwarnings('ignore')
def test_a_detector_with_a_shared_head(tmp_path, capsys):
    pytest.importorskip('mmdet')
    (tmp_path / 'prune.py').write_text(DETECTOR.format(base=str(ROOT / 'tests/configs/tiny_retinanet.py')))
    write_pruned(tmp_path / 'prune.py', tmp_path)
    saved = repaired(tmp_path)['state_dict']
    text = capsys.readouterr().out
    before = torch.load(tmp_path / 'pruned.pth', weights_only=True)['state_dict']
    for name in ('neck.fpn_convs.0.conv', 'bbox_head.cls_convs.0.conv', 'bbox_head.retina_cls'):
        key = f'architecture.{name}.weight'
        assert not torch.equal(saved[key], before[key]), key
    rows = rows_of(text)['output error']
    assert rows[2] < 0.7 * rows[1]
    assert 'not evaluated: the config has no val_dataloader' in text


#: Prune config -> layer of its head that reads what was pruned, and what is left.
CODE_BASES = {
    'mmdet/group_fisher/yolox/group_fisher_act_prune_yolox_s_8xb8-300e_coco.py':
        ('bbox_head.multi_level_conv_cls.0', ''),
    'mmdet/group_fisher/rtmdet/group_fisher_act_prune_rtmdet_s_8xb32-300e_coco.py':
        ('bbox_head.cls_convs.0.0.conv', ''),
    'mmpose/group_fisher/group_fisher_prune_rtmpose-s_8xb256-420e_coco-256x192.py':
        ('head.mlp.1', 'head.final_layer.weight: left as it was; each of its outputs has 17,542 inputs')}


@pytest.mark.full
@pytest.mark.data
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', CODE_BASES)
def test_detectors_and_pose_estimators_up_to_their_heads(name, data_root, tmp_path, capsys):
    Config(read_small(name, data_root, True)).dump(str(tmp_path / 'prune.py'))
    write_pruned(tmp_path / 'prune.py', tmp_path)
    saved = repaired(tmp_path, '--images', '8', '--no-test')['state_dict']
    text = capsys.readouterr().out
    layer, left = CODE_BASES[name]
    before = torch.load(tmp_path / 'pruned.pth', weights_only=True)['state_dict'][f'architecture.{layer}.weight']
    assert not torch.equal(saved[f'architecture.{layer}.weight'], before)
    assert left in text
    assert 'WARNING: ' in text  # of so few images
    error = rows_of(text)['output error']
    assert error[2] < error[1]


@pytest.mark.full
@pytest.mark.filterwarnings('ignore')
def test_a_segmentor_and_its_auxiliary_head(tmp_path, capsys):
    pytest.importorskip('mmseg')
    (tmp_path / 'dense.py').write_text(dense_config('deeplabv3plus', write_shapes(tmp_path / 'shapes')))
    (tmp_path / 'prune.py').write_text(
        f'_base_ = {str(tmp_path / "dense.py")!r}\nfrom mmprune.config import pruning_model\n'
        f'model = pruning_model(_base_, None, (1, 3, {SIZE}, {SIZE}))\n')
    write_pruned(tmp_path / 'prune.py', tmp_path)
    saved = repaired(tmp_path, '--images', '20')['state_dict']
    before = torch.load(tmp_path / 'pruned.pth', weights_only=True)['state_dict']
    for name in ('decode_head.conv_seg', 'auxiliary_head.convs.0.conv', 'auxiliary_head.conv_seg'):
        key = f'architecture.{name}.weight'
        assert not torch.equal(saved[key], before[key]), key
    rows = rows_of(capsys.readouterr().out)
    assert {'mIoU', 'aAcc', 'output error'} <= {*rows}
    assert rows['output error'][2] < rows['output error'][1]
