"""Pruned models of timm: exact round trips through a folder, and metadata that are the shapes of real outputs."""
import copy
import json
import zipfile

import pytest
import torch
from files_elsewhere import assert_files_compute
from torch import nn

from mmprune.arguments import MissingPackageError, UserError
from mmprune.deploy.onnx_export import export_onnx
from mmprune.integrations.timm import describe, load_pruned, save_pruned
from mmprune.models.checkpoint_file import CheckpointError
from mmprune.pruning.pruner import Pruner
from mmprune.units.equivalence import randomise
from mmprune.units.structure import StructureError

timm = pytest.importorskip('timm')
#: One network of each family; the table of docs/timm.md has more.
NAMES = ('resnet18', 'mobilenetv3_small_050', 'ghostnet_050', 'levit_128s', 'resmlp_12_224', 'convnext_atto')


def pruned(name, ratio=0.4, **arguments):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    randomise(model, 0)
    size = model.default_cfg['input_size'][1] if model.default_cfg.get('fixed_input_size') else 64
    image = torch.randn(1, 3, size, size)
    pruner = Pruner(model, image, 'L2', ratio)
    pruner.cut()
    return pruner, image


@pytest.fixture(scope='module')
def small():
    pruner, image = pruned('resnet18', act_layer='silu')
    return describe(pruner), image


@pytest.mark.parametrize(('name', 'arguments'), [
    ('vit_tiny_patch16_224', dict(img_size=64, embed_dim=24, depth=2, num_heads=3)),
    ('swin_tiny_patch4_window7_224', dict(img_size=64, window_size=4, embed_dim=12, depths=(1, 1), num_heads=(3, 3)))])
def test_heads_their_dimensions_and_the_stream_travel(name, arguments, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    randomise(model, 0)
    image = torch.randn(1, 3, 64, 64)
    pruner = Pruner(model, image, 'L2', 0.4)
    pruner.cut()
    dense = model.num_features
    save_pruned(pruner, tmp_path, model_args=dict(arguments))
    loaded = load_pruned(tmp_path)
    structure = loaded.mmprune['cuts'][0]['structure']
    assert {name.rpartition('#')[2] for name in structure if '#' in name} >= {'heads', 'qk', 'v'}
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
        features = loaded.forward_features(image)
    assert loaded.num_features == features.shape[-1] < dense
    assert {key: tensor.shape for key, tensor in loaded.state_dict().items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize('name', NAMES)
def test_round_trip_and_metadata(name, tmp_path):
    pruner, image = pruned(name)
    dense = (pruner.model.num_features, pruner.model.head_hidden_size)
    model = describe(pruner)
    save_pruned(model, tmp_path)
    loaded = load_pruned(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
        features = loaded.forward_features(image)
        assert loaded.num_features == model.num_features == features.shape[2 if features.dim() == 3 else 1]
        assert loaded.head_hidden_size == loaded.forward_head(features, pre_logits=True).shape[-1]
        channels = [one.shape[1] for one in loaded.forward_intermediates(image, intermediates_only=True)]
        assert [info['num_chs'] for info in loaded.feature_info] == channels
        assert name == 'convnext_atto' or (loaded.num_features < dense[0] and loaded.head_hidden_size < dense[1])
        for count in (7, 0):
            loaded.reset_classifier(count)
            assert loaded(image).shape == (1, count or loaded.head_hidden_size)


def test_widths_follow_from_step_to_step(tmp_path):
    model, image = (pruner := pruned('resnet18')[0]).model, torch.randn(1, 3, 64, 64)
    describe(pruner)
    pruner = Pruner(model, image, 'L2', 0.5)
    pruner.cut()
    assert describe(pruner).num_features == model.layer4[1].conv2.out_channels == 154
    save_pruned(model, tmp_path)
    assert torch.equal(load_pruned(tmp_path)(image), model(image))


def test_features_of_a_pruned_classifier(small):
    from timm.models import FeatureListNet
    from timm.models._features import FeatureGetterNet
    model, image = small
    for kind in (FeatureListNet, FeatureGetterNet):
        extractor = kind(copy.deepcopy(model), out_indices=(2, 4))
        outputs = extractor(image)
        assert extractor.feature_info.channels() == [one.shape[1] for one in outputs] == [77, 308]
    with torch.no_grad():
        assert torch.equal(outputs[1], model.forward_features(image))


def test_a_pruned_extractor_of_features(tmp_path):
    model = timm.create_model('mobilenetv3_small_050', features_only=True, out_indices=(1, 3)).eval()
    image = torch.randn(1, 3, 64, 64)
    channels = model.feature_info.channels()
    pruner = Pruner(model, image, 'L2', 0.5)
    pruner.cut()
    save_pruned(pruner, tmp_path)
    loaded = load_pruned(tmp_path)
    outputs = loaded(image)
    assert all(map(torch.equal, outputs, model(image)))
    assert loaded.feature_info.channels() == channels == [one.shape[1] for one in outputs]


def test_what_the_model_was_created_with_is_kept(small, tmp_path):
    model, _ = small
    save_pruned(model, tmp_path)
    loaded = load_pruned(tmp_path)
    assert isinstance(loaded.act1, nn.SiLU)
    assert not loaded.training
    for key in ('architecture', 'interpolation', 'crop_pct', 'classifier'):
        assert loaded.pretrained_cfg[key] == model.pretrained_cfg[key]
    for key in ('input_size', 'mean', 'std'):  # timm reads lists
        assert list(loaded.pretrained_cfg[key]) == list(model.pretrained_cfg[key])
    assert loaded.default_cfg is loaded.pretrained_cfg
    config = json.loads((tmp_path / 'config.json').read_text())
    assert (config['architecture'], config['num_features'], config['num_classes']) == ('resnet18', 308, 5)
    save_pruned(loaded, tmp_path)  # from folder to folder
    assert load_pruned(tmp_path).mmprune == model.mmprune


def test_an_average_and_another_classifier_are_saved(small, tmp_path):
    model, image = small
    average = timm.utils.ModelEmaV3(model).module
    average.reset_classifier(3)
    save_pruned(average, tmp_path)
    assert torch.equal(load_pruned(tmp_path)(image), average.eval()(image))


def test_timm_itself_refuses_the_weights(small, tmp_path):
    save_pruned(small[0], tmp_path)
    with pytest.raises(RuntimeError, match='size mismatch for conv1.weight'):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True)


def test_mistakes_are_told(small, tmp_path, monkeypatch):
    model, image = small
    with pytest.raises(StructureError, match='this ResNet says nothing of a pruned model'):
        save_pruned(timm.create_model('resnet18'), tmp_path)
    other = copy.deepcopy(model)
    other.act1 = nn.Tanh()
    with pytest.raises(CheckpointError, match='ResNet was changed after it was built'):
        save_pruned(other, tmp_path / 'other')
    assert not list((tmp_path / 'other').iterdir())
    pruner = Pruner(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), image, 'L2', 0.5)
    pruner.cut()
    with pytest.raises(UserError, match='this Sequential is no model of timm.create_model'):
        save_pruned(pruner, tmp_path)
    save_pruned(model, tmp_path)
    with zipfile.ZipFile(tmp_path / 'pytorch_model.bin') as archive:
        offset = max(archive.infolist(), key=lambda one: one.file_size).header_offset + 5000
    with open(tmp_path / 'pytorch_model.bin', 'r+b') as file:
        file.seek(offset)
        file.write(b'\x00\x01\x02\x03')
    with pytest.raises(CheckpointError, match='is not a readable PyTorch checkpoint'):
        load_pruned(tmp_path)
    monkeypatch.delattr(timm.models, 'get_model_args')
    with pytest.raises(MissingPackageError, match=r'pip install "timm>=1.0.31"'):
        load_pruned(tmp_path)


def test_without_mmprune_by_onnx_and_by_an_exported_program(small, tmp_path):
    model, image = small
    expected = model(image).detach()
    torch.save((image, expected), tmp_path / 'expected.pth')
    export_onnx(model, image, tmp_path / 'model.onnx')
    torch.export.save(torch.export.export(model, (image,)), tmp_path / 'model.pt2')
    assert_files_compute(tmp_path, 'timm')
