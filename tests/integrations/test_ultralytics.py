"""YOLO models of ultralytics from their yaml to a pruned, trained, saved and exported one; where it is installed."""
import importlib.util
import os
from unittest import mock

import numpy as np
import pytest
import torch

if importlib.util.find_spec('ultralytics') is None:
    pytest.skip('ultralytics is not installed', allow_module_level=True)
os.environ.update(YOLO_AUTOINSTALL='false', YOLO_OFFLINE='true')  # it reads these when it is imported

import cv2
import yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import yaml_model_load

import mmprune
from mmprune.arguments import UserError
from mmprune.graph.nested import output_tensors
from mmprune.integrations.ultralytics import cut_to, prune, raw_predictions, trainer_for
from mmprune.report.proof import verify
from mmprune.units.equivalence import relative_difference

pytestmark = pytest.mark.filterwarnings('ignore')  # those of ultralytics are its own
SIZE = 64
MODELS = [f'{version}{task}' for version in ('yolov8n', 'yolo11n', 'yolo26n') for task in ('', '-seg', '-pose')]


@pytest.fixture(autouse=True)
def own_environment():
    """What building and training a YOLO sets or removes is as before after the test."""
    with mock.patch.dict(os.environ):
        yield


def fresh(name, folder, classes=2):
    """Return a YOLO of its yaml with two classes, with random statistics of its norms."""
    cfg = {**yaml_model_load(f'{name}.yaml'), 'nc': 1 if name.endswith('pose') else classes}
    cfg.pop('yaml_file', None)
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump(cfg))
    torch.manual_seed(0)
    yolo = YOLO(str(path))
    for module in yolo.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return yolo


def dataset(folder, task, images=6):
    """Write random images with one box, polygon or pose of each class; return the yaml."""
    random, box = np.random.RandomState(0), '0.5 0.5 0.4 0.4'
    labels = {'detect': [f'0 {box}', f'1 {box}'], 'segment': ['0 .3 .3 .7 .3 .7 .7', '1 .2 .2 .6 .2 .6 .6'],
              'pose': [f'0 {box}' + ' 0.5 0.5 2' * 17]}[task]
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True)
        for number in range(images):
            cv2.imwrite(str(folder / 'images' / split / f'{number}.png'),
                        random.randint(0, 255, (48, SIZE, 3)).astype(np.uint8))
            (folder / 'labels' / split / f'{number}.txt').write_text('\n'.join(labels))
    names = dict(enumerate('ab'[:len(labels) if task != 'pose' else 1]))
    (folder / 'data.yaml').write_text(yaml.safe_dump(dict(
        path=str(folder), train='images/train', val='images/val', names=names, kpt_shape=[17, 3])))
    return str(folder / 'data.yaml')


def outputs(model, x):
    with torch.no_grad():
        return output_tensors(model.eval()(x))


@pytest.mark.parametrize('name', MODELS)
def test_half_of_the_multiply_adds_go_exactly_and_come_back_from_both_files(name, tmp_path):
    yolo, x = fresh(name, tmp_path), torch.rand(2, 3, SIZE, SIZE)
    decoder = {key: value.clone() for key, value in yolo.model.state_dict().items() if '.dfl' in key}
    shapes = [tensor.shape for tensor in outputs(yolo.model, x)]
    pruned = prune(yolo, dict(flops=0.5), 'L1', imgsz=SIZE)
    mutator = pruned.pruner.mutator
    assert mutator.cost['macs'] <= 0.5 * mutator.complexity.cost({})['macs']
    assert not [unit.name for unit in mutator.units if '.dfl' in unit.name]
    assert all(torch.equal(yolo.model.state_dict()[key], value) for key, value in decoder.items())
    whole = {module for unit in mutator.frozen for module in [unit.name.split('.cv')[0]] if 'written' in unit.reason}
    assert whole <= {'model.10', 'model.22'}, 'only what attention reads stays for a size that is written down'
    found = outputs(yolo.model, x)
    assert [tensor.shape for tensor in found if tensor.shape in shapes]  # what it predicts
    mmprune.save_structure(pruned.pruner, tmp_path / 'structure.json')
    ours = fresh(name, tmp_path)
    cut_to(ours, str(tmp_path / 'structure.json'), SIZE)
    ours.model.load_state_dict(yolo.model.state_dict())
    assert all(map(torch.equal, outputs(ours.model, x), found))
    yolo.save(tmp_path / 'pruned.pt')
    assert relative_difference(found, outputs(YOLO(tmp_path / 'pruned.pt').model, x)) < 2e-3


def test_cut_is_proven_exact_in_float64(tmp_path):
    yolo = fresh('yolo11n', tmp_path)
    with raw_predictions(yolo) as network:
        pruner = mmprune.Pruner(network, torch.rand(1, 3, SIZE, SIZE), 'L1')
        assert verify(pruner.mutator)['max_relative_difference'] < 1e-9
    with_read = mmprune.Pruner(fresh('yolo11n', tmp_path).model, torch.rand(1, 3, SIZE, SIZE), 'L1')
    freed = {unit.name for unit in pruner.mutator.units} - {unit.name for unit in with_read.mutator.units}
    assert freed == {'model.16.cv2.conv_(0, 64)_64', 'model.19.cv2.conv_(0, 128)_128', 'model.22.cv2.conv_(0, 256)_256'}


class Killed(Exception):
    pass


def kill(trainer):
    if trainer.epoch == 0:
        raise Killed


@pytest.mark.parametrize('name', ['yolo11n', 'yolov8n-seg', 'yolo26n-pose'])
def test_training_goes_on_after_it_was_killed_and_the_result_is_exported(name, tmp_path):
    yolo = fresh(name, tmp_path)
    data = dataset(tmp_path / 'data', yolo.task)
    pruned = prune(yolo, dict(flops=0.6), 'GroupFisher', images=data, rounds=1, imgsz=SIZE)
    assert pruned.repairs[0].after < pruned.repairs[0].before
    names, size = set(yolo.model.state_dict()), sum(map(torch.numel, yolo.model.parameters()))
    settings = dict(data=data, epochs=2, imgsz=SIZE, batch=4, device='cpu', workers=0, amp=False, plots=False,
                    project=str(tmp_path / 'runs'), name='x', verbose=False)
    yolo.add_callback('on_model_save', kill)
    with pytest.raises(Killed):
        yolo.train(trainer=trainer_for(yolo), **settings)
    weights = tmp_path / 'runs' / 'x' / 'weights'
    with pytest.raises(KeyError, match='pruned by mmprune: train it with trainer=trainer_for'):
        YOLO(weights / 'last.pt').train(resume=True)  # its own trainer builds the dense network
    again = YOLO(weights / 'last.pt')
    again.train(resume=True, trainer=trainer_for(again))
    assert again.trainer.start_epoch == 1
    assert again.trainer.epoch == 1
    assert (set(again.model.state_dict()), sum(map(torch.numel, again.model.parameters()))) == (names, size)
    again.val(data=data, imgsz=SIZE, device='cpu', plots=False, workers=0, verbose=False)
    assert_exports(YOLO(weights / 'best.pt'))
    cost = prune(again, dict(flops=0.8), 'L1', imgsz=SIZE).pruner.mutator.cost['macs']
    assert cost <= 0.8 * pruned.pruner.mutator.cost['macs']


def assert_exports(yolo):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    x = torch.rand(1, 3, SIZE, SIZE)
    want = outputs(yolo.model, x)[0]
    session = onnxruntime.InferenceSession(yolo.export(format='onnx', imgsz=SIZE, device='cpu', simplify=False))
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert relative_difference([want], [torch.from_numpy(got)]) < 1e-4


def test_images_of_every_kind(tmp_path):
    from mmprune.integrations.ultralytics.images import images_of
    data = dataset(tmp_path / 'data', 'detect')
    folder = tmp_path / 'data' / 'images' / 'train'
    (tmp_path / 'list.txt').write_text('\n'.join(map(str, sorted(folder.iterdir()))))
    found = images_of(data, SIZE, 4)
    assert found.shape == (4, 3, SIZE, SIZE)
    pixel = cv2.imread(str(folder / '0.png'))[0, 0, ::-1]
    assert found[0, :, 8, 0].mul(255).round().tolist() == pixel.tolist(), 'RGB, with a band of 8 rows above'
    assert torch.equal(found[0, :, 0, 0], torch.full((3, ), 114 / 255))
    for other in (folder, str(tmp_path / 'list.txt'), sorted(folder.iterdir()), [folder]):
        assert torch.equal(images_of(other, SIZE, 4), found)
    loader = [dict(img=(255 * found[:2]).byte()), dict(img=(255 * found[2:]).byte())]
    assert images_of(loader, SIZE, 3).shape == (3, 3, SIZE, SIZE)
    torch.testing.assert_close(images_of(loader, SIZE, 9), found, atol=1.01 / 255, rtol=0)


def test_mistakes_are_one_line(tmp_path):
    yolo = fresh('yolov8n', tmp_path)
    for values, message in [
            (dict(imgsz=100), '^imgsz is 100; it must be a multiple of 32, the stride of the network$'),
            (dict(criterion='GroupFisher'), '^GroupFisher scores channels by images: give images='),
            (dict(images=str(tmp_path / 'none')), 'none.*, which is no file or folder$'),
            (dict(images=str(tmp_path / 'none.yaml')), 'none.yaml.*, and the dataset cannot be used: '),
            (dict(images=[]), '^there are no images: the list or loader is empty$'),
            (dict(images=[1]), '^images has 1; it must be tensors of images'),
            (dict(rounds=-1), "^rounds is -1; it must be 'auto' or a whole number of 0 or more$"),
            (dict(most_images=0), '^most_images is 0; it must be a whole number of 2 or more$')]:
        with pytest.raises(UserError, match=message):
            prune(yolo, **{**dict(target=dict(flops=0.5), criterion='L1', imgsz=SIZE), **values})
    with pytest.raises(UserError, match="^yolo is 'yolo11n.pt'; it must be a YOLO of ultralytics"):
        prune('yolo11n.pt', dict(flops=0.5))
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(UserError, match=r'broken\.png. cannot be read as an image$'):
        prune(yolo, dict(flops=0.5), images=str(tmp_path / 'broken.png'), imgsz=SIZE)
    yolo.fuse()
    with pytest.raises(UserError, match='^the norms of this YOLO are folded into its convolutions'):
        prune(yolo, dict(flops=0.5), 'L1', imgsz=SIZE)
