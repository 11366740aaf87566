"""A part that was pruned in one model is used in another, whatever its prefix is there."""
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.config import group_fisher_model, transferred_model
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.checkpoint import CheckpointError
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.models.transfer import TransferredSubModel
from mmprune.registry import MODELS
from mmprune.units.equivalence import randomise
from mmprune.units.structure import StructureError, relocation

INPUT = dict(type='DemoInput', input_shape=(1, 3, 16, 16))


class Backbone(nn.Module):
    """Two stages, the second residual; gives both."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.body, self.back = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 12, 1)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        y = self.down(x)
        return x, F.relu(y + self.back(F.relu(self.body(y))))


class First(BaseModel):
    """The backbone as ``backbone``, one head on its last stage."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(self.backbone(inputs)[1])


class Second(BaseModel):
    """The backbone as ``detector.encoder``, laterals on both stages and a head of its own."""

    def __init__(self):
        super().__init__()
        self.detector = nn.Module()
        self.detector.encoder = Backbone()
        self.lateral = nn.ModuleList([nn.Conv2d(8, 5, 1), nn.Conv2d(12, 5, 1)])
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        low, high = (lateral(x) for lateral, x in zip(self.lateral, self.detector.encoder(inputs)))
        return self.head(low + F.interpolate(high, scale_factor=2.0))


class Twins(BaseModel):
    """Two of the backbone."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Backbone(), Backbone()
        self.head = nn.Conv2d(24, 2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(torch.cat([self.left(inputs)[1], self.right(inputs)[1]], 1))


@pytest.fixture
def pruned(tmp_path):
    """The first model, its backbone pruned; its structure, its checkpoint, the algorithm."""
    first = First()
    randomise(first, 0)
    algorithm = GroupFisherAlgorithm(first, dict(type='GroupFisherChannelMutator', demo_input=INPUT,
                                                 include='backbone'))
    mutator = algorithm.mutator
    assert all(unit.name.startswith('backbone.') for unit in mutator.units)
    mutator.cut({unit.name: torch.arange(unit.width).numpy() % 3 != 1 for unit in mutator.units})  # not the first ones
    torch.save(dict(state_dict=algorithm.state_dict()), tmp_path / 'pruned.pth')
    return mutator.structure, str(tmp_path / 'pruned.pth'), first


def test_structure_of_a_backbone_fits_under_another_prefix(pruned):
    structure, checkpoint, first = pruned
    second = Second()
    randomise(second, 1)
    dense_lateral = second.lateral[0].weight.detach().clone()
    model = TransferredSubModel(second, structure, checkpoint, 'detector.encoder', INPUT)
    assert model.fix_subnet == {name.replace('backbone.', 'detector.encoder.'): count
                                for name, count in structure.items()}
    assert model.lateral[0].weight.shape == (5, 5, 1, 1)
    assert model.lateral[1].weight.shape == (5, 8, 1, 1)
    assert torch.equal(model.lateral[0].weight, dense_lateral[:, :5])
    first.eval(), model.eval()
    x = torch.randn(2, 3, 16, 16)
    for ours, theirs in zip(model.detector.encoder(x), first.backbone(x)):
        assert torch.equal(ours, theirs)
    model(x).sum().backward()


def test_trained_further_it_deploys_from_either_structure(pruned, tmp_path):
    structure, checkpoint, _ = pruned
    model = TransferredSubModel(Second(), structure, checkpoint, 'detector.encoder', INPUT)
    x = torch.randn(1, 3, 16, 16)
    outputs = []
    for fix_subnet in (structure, model.fix_subnet):  # with the names of the first model, and with its own
        deployed = GroupFisherDeploySubModel(Second(), fix_subnet, 4, INPUT, include='detector.encoder')
        deployed.load_state_dict(model.state_dict())
        deployed.switch_to_deploy()
        assert deployed.lateral[0].weight.shape[1] == 8
        outputs.append(deployed.eval()(x))
    assert torch.allclose(outputs[0], model.eval()(x), atol=1e-6)
    assert torch.equal(*outputs)


def test_relocation_by_hand():
    assert relocation(['backbone.a_(0, 4)_4'], ['backbone.a_(0, 4)_4', 'x.backbone.a_(0, 4)_4']) == ('', '')
    assert relocation(['backbone.a_(0, 4)_4', 'backbone.b.c_(0, 4)_4'],
                      ['a_(0, 4)_4', 'b.c_(0, 4)_4', 'd_(0, 4)_4']) == ('backbone.', '')
    assert relocation(['a_(0, 4)_4'], ['net.backbone.a_(0, 4)_4']) == ('', 'net.backbone.')
    assert relocation(['backbone.a_(0, 4)_4'], ['net.aa_(0, 4)_4']) == ('', '')  # another name that ends alike
    assert relocation(['backbone.a_(0, 4)_4'], ['net.a_(0, 5)_5']) == ('', '')
    assert relocation([], ['a_(0, 4)_4']) == ('', '')


def test_mistakes_are_named(pruned, tmp_path):
    structure, checkpoint, _ = pruned
    with pytest.raises(StructureError, match="fits in several places of this model: 'left.', 'right.'; name one"):
        GroupFisherDeploySubModel(Twins(), structure, 1, INPUT)
    one = GroupFisherDeploySubModel(Second(), structure, 1, INPUT, include='detector.encoder')
    assert one.detector.encoder.stem.weight.shape[0] == 5
    whole = GroupFisherDeploySubModel(Second(), structure, 1, INPUT)  # what was not pruned stays
    assert whole.lateral[0].out_channels == 5
    with pytest.raises(StructureError, match=r"'head_\(0, 4\)_4' is not pruned in this model: .*output"):
        GroupFisherDeploySubModel(First(), {**structure, 'head_(0, 4)_4': 2}, 1, INPUT, include='backbone')
    wrong = {name: count - 1 for name, count in structure.items()}
    with pytest.raises(CheckpointError, match='is fix_subnet its structure'):
        TransferredSubModel(Second(), wrong, checkpoint, 'detector.encoder', INPUT)
    with pytest.raises(CheckpointError, match='there is no file'):
        TransferredSubModel(Second(), structure, str(tmp_path / 'none.pth'), 'detector.encoder', INPUT)


@pytest.mark.full
def test_backbone_of_a_retinanet_in_a_faster_rcnn(tmp_path):
    pytest.importorskip('mmdet')
    shape = (1, 3, 128, 128)
    cfg = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    init_default_scope('mmdet')
    model = ConfigDict(group_fisher_model(cfg, '', 1, 'act', shape, choice=dict(include='backbone')))
    model.pop('_delete_')
    model.architecture.update(init_cfg=None, backbone=dict(model.architecture.backbone, init_cfg=None))
    algorithm = MODELS.build(model)
    algorithm.init_weights()
    mutator = algorithm.mutator
    mutator.apply_structure({unit.name: unit.width * 3 // 4 for unit in mutator.units})
    torch.save(dict(state_dict=algorithm.state_dict()), tmp_path / 'pruned.pth')

    cfg = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    config = ConfigDict(transferred_model(cfg, mutator.structure, str(tmp_path / 'pruned.pth'), input_shape=shape))
    config.pop('_delete_')
    config.demo_input.regions = 20
    transferred = MODELS.build(config)
    assert transferred.neck.lateral_convs[3].conv.weight.shape == (256, 1536, 1, 1)
    assert transferred.roi_head.bbox_head.fc_cls.weight.std() < 0.02  # as Faster R-CNN initialises it
    x = torch.randn(shape)
    transferred.eval(), algorithm.eval()
    mutator.release()
    with torch.no_grad():
        pairs = list(zip(transferred.backbone(x), algorithm.architecture.backbone(x)))
    assert len(pairs) == 4
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
