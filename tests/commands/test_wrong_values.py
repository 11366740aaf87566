"""Every argument of a config and every option of a command gets a wrong type, 0, -1 and 1e9: one line, or it is legal.

What there is to give is read off the signatures and parsers, so that new arguments are tested as they come. Values that
are taken although they look wrong are listed with the reason; a value that is listed and refused fails, too.
"""
import importlib.util
import inspect

import pytest
import torch
import toy_nets
from toy_nets import ToyClassifier, algorithm_of

from mmprune import config
from mmprune.arguments import UserError
from mmprune.criteria.calibration import Calibration, LossOf
from mmprune.criteria.criterion import Criterion, build_criterion
from mmprune.engine.run_repair import RunRepair
from mmprune.engine.schedules.schedule import PruningSchedule
from mmprune.graph.demo_input import DemoInput
from mmprune.models.pruning_algorithm import PruningAlgorithm
from mmprune.pruning.plan import make_plan
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.structure_file import apply_structure
from mmprune.pruning.target import PruningTarget
from mmprune.registry import CRITERIA, DATASETS, HOOKS, MODEL_WRAPPERS, MODELS, RUNTIMES, TASK_UTILS
from mmprune.units.choice import Choice
from mmprune.units.mutator import ChannelMutator

VALUES = {'text': 'no such thing', 'list': [None], 'zero': 0, 'minus one': -1, 'huge': 10**9, 'float': 1e9}
DEMO = dict(type='DemoInput', input_shape=(1, 3, 6, 6))
MODEL = dict(type='mmprune.ToyClassifier', net='Residual')
STRUCTURE = {'net.conv1_(0, 5)_5': 3}
BASE = dict(model=MODEL, optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
#: Which of its arguments a call needs: owner -> arguments. ``PRUNED`` stands for a pruned checkpoint.
NEEDED = {
    'group_fisher_model': dict(base=BASE, pretrained_path='x.pth', interval=5, normalization_type='act'),
    'prune_schedule': dict(base=dict(BASE, train_cfg=dict(max_epochs=3)), max_epochs=2),
    'finetune_schedule': dict(base=dict(BASE, train_cfg=dict(max_epochs=3))),
    'prune_hooks': dict(base=BASE, target_flop_ratio=0.5),
    'prune_settings': dict(base=BASE, pretrained_path='x.pth', interval=5, normalization_type='act', lr_ratio=0.1,
                           target_flop_ratio=0.5),
    'pruning_model': dict(base=BASE, pretrained_path=None),
    'schedule_settings': dict(base=BASE, pretrained_path=None, schedule=dict(
        type='mmprune.OneShotPruningHook', criterion='L2', target=dict(ratio=0.3))),
    'finetune_settings': dict(base='PRUNE_CONFIG', pruned_path='PRUNED', finetune_lr=0.1),
    'distilled_model': dict(base='FINETUNE_CONFIG', teacher_path='DENSE', outputs='net.fc'),
    'transferred_model': dict(base=BASE, fix_subnet=STRUCTURE, checkpoint='PRUNED', part='net'),
    'deploy_model': dict(base=BASE, fix_subnet=STRUCTURE),
    'PruningAlgorithm': dict(architecture=MODEL, mutator=dict(type='ChannelMutator', demo_input=DEMO)),
    'GroupFisherAlgorithm': dict(architecture=MODEL, mutator=dict(type='GroupFisherChannelMutator', demo_input=DEMO)),
    'SeveralInputs': dict(inputs=[DEMO]),
    'ChannelMutator': dict(demo_input=DEMO), 'GroupFisherChannelMutator': dict(demo_input=DEMO),
    'ChannelUnit': dict(channels='CHANNELS'), 'GroupFisherChannelUnit': dict(channels='CHANNELS'),
    'GroupFisherSubModel': dict(algorithm='PRUNED_ALGORITHM'),
    'GroupFisherDeploySubModel': dict(architecture=MODEL, fix_subnet=STRUCTURE, demo_input=DEMO),
    'TransferredSubModel': dict(architecture=MODEL, fix_subnet=STRUCTURE, checkpoint='PRUNED', part='net',
                                demo_input=DEMO),
    'DistilledSubModel': dict(student=dict(type='mmprune.GroupFisherSubModel', algorithm='PRUNED_ALGORITHM'),
                              teacher=dict(MODEL, init_cfg=dict(type='Pretrained', checkpoint='DENSE')),
                              outputs='net.fc'),
    **dict.fromkeys(('OneShotPruningHook', 'IterativePruningHook', 'LayerByLayerPruningHook'),
                    dict(criterion='L2', target=dict(ratio=0.3))),
    'AccuracyCurveHook': dict(criterion='L2', shares=[0.9, 0.8]),
    **dict.fromkeys(('PortableDDP', 'ShrinkingDDP', 'GroupFisherDDP'), dict(module=torch.nn.Linear(1, 1))),
    'Pruner': dict(model='NET', example_inputs=torch.zeros(1, 3, 6, 6)),
    'apply_structure': dict(model='NET', example_inputs=torch.zeros(1, 3, 6, 6), structure={'0_(0, 4)_4': 3}),
    'OrderedBy': dict(widths='L2', order='FPGM'), 'PruningTarget': {}, 'Choice': {}, 'RunRepair': {}}
#: What a target is given by; two of them contradict each other.
TARGETS = ('ratio', 'flops', 'params', 'acts')
HELPERS = [name for name, value in vars(config).items() if inspect.isfunction(value) and hasattr(value, '__wrapped__')
           and value.__module__ == config.__name__]


def registered():
    """Return name -> class or function of everything that configs can name."""
    found = {}
    for registry in (MODELS, HOOKS, CRITERIA, MODEL_WRAPPERS, TASK_UTILS, DATASETS, RUNTIMES):
        registry.import_from_location()
        found.update({name: entry for name, entry in registry.module_dict.items()
                      if entry.__module__.startswith('mmprune.')})
    return found


#: No config holds a tensor: what becomes of them is tested by the inputs of a Pruner.
NOT_FOR_CONFIGS = {'ExampleInputs'}
#: Runtimes whose package is not installed here refuse everything.
NOT_FOR_CONFIGS |= {name for name, package in (('OnnxRuntime', 'onnxruntime'), ('OpenVINO', 'openvino'))
                    if importlib.util.find_spec(package) is None}
CALLS = {**{name: getattr(config, name) for name in HELPERS}, **registered(), 'Pruner': Pruner,
         'apply_structure': apply_structure, 'PruningTarget': PruningTarget, 'Choice': Choice,
         'RunRepair': RunRepair}


def parameters(call):
    """Return the names of the arguments of a class or function of this package; mmengine checks its own."""
    function = call.__init__ if isinstance(call, type) else call
    if not function.__module__.startswith('mmprune.'):
        return []
    return [name for name in inspect.signature(function).parameters if name != 'self']


ARGUMENTS = [(owner, name) for owner, call in CALLS.items() if owner not in NOT_FOR_CONFIGS
             for name in parameters(call)]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """What the names in :data:`NEEDED` stand for."""
    folder = tmp_path_factory.mktemp('wrong_values')
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    torch.save(dict(state_dict=algorithm.architecture.state_dict()), folder / 'dense.pth')
    mutator = ChannelMutator(demo_input=DEMO)
    plain = PruningAlgorithm(ToyClassifier(toy_nets.Residual()), dict(type='ChannelMutator', demo_input=DEMO))
    plain.mutator.apply_structure(STRUCTURE)
    torch.save(dict(state_dict=plain.state_dict()), folder / 'pruned.pth')
    mutator.prepare(toy_nets.Residual())
    pruning = dict(type='mmprune.PruningAlgorithm', architecture=MODEL,
                   mutator=dict(type='ChannelMutator', demo_input=DEMO))
    pruned = dict(pruning, init_cfg=dict(type='Pretrained', checkpoint=str(folder / 'pruned.pth')))
    return dict(PRUNED=str(folder / 'pruned.pth'), DENSE=str(folder / 'dense.pth'), PRUNED_ALGORITHM=pruned,
                PRUNE_CONFIG=dict(model=pruning), CHANNELS=mutator.units[0].channels,
                FINETUNE_CONFIG=dict(model=dict(type='mmprune.GroupFisherSubModel', algorithm=pruned)))


def filled(value, made):
    """Return a value of :data:`NEEDED` with names replaced."""
    if value == 'NET':
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 2, 1))
    if isinstance(value, dict):
        return {key: filled(item, made) for key, item in value.items()}
    return made.get(value, value) if isinstance(value, str) else value


def use(built):
    """Do with what a call has built what a run would do first."""
    if isinstance(built, tuple):
        for part in (built[0], *(built[3] if len(built) > 3 else ())):
            use(part)
    elif isinstance(built, list):
        for part in built:
            use(part)
    elif isinstance(built, dict) and 'type' in built:
        cfg = {key: value for key, value in built.items() if key != '_delete_'}
        use((HOOKS if cfg['type'].endswith('Hook') else MODELS).build(dict(cfg, _scope_='mmprune')))
    elif isinstance(built, PruningSchedule):
        built.bind(PruningAlgorithm(ToyClassifier(toy_nets.Residual()), dict(type='ChannelMutator', demo_input=DEMO)))
    elif isinstance(built, ChannelMutator):
        built.prepare(toy_nets.Residual())
    elif isinstance(built, Choice):
        built.check(['conv1'])
    elif isinstance(built, PruningTarget):
        make_plan(small_mutator(), build_criterion('L1', small_mutator()), built)
    elif isinstance(built, Criterion):
        score(built)
    elif isinstance(built, DemoInput):
        built.tensor(toy_nets.Residual())


def small_mutator():
    mutator = ChannelMutator(demo_input=DEMO)
    mutator.prepare(toy_nets.Residual())
    return mutator


def score(criterion):
    """Score a small net by a criterion, on two batches."""
    mutator = small_mutator()
    built = build_criterion(criterion, mutator)
    if built.needs_data:
        loss = LossOf(mutator, torch.nn.functional.cross_entropy)
        built.calibrate(Calibration([(torch.randn(4, 3, 6, 6), torch.arange(4))] * 2, loss, loss.targets))
    for unit in mutator.units:
        built.score(unit)


def outcome(call, arguments):
    """Return None if a call and the first use of its result take the arguments, else the message of the error."""
    try:
        use(call(**arguments))
    except (UserError, FileNotFoundError) as error:
        return str(error)
    return None


#: Values that are taken: argument (of an owner, or of all that have it) -> value -> why.
LEGAL = {
    'pretrained_path': {'text': 'any path; the run reads it before it trains'},
    'interval': {'huge': 'a run that never prunes; its outlook says that it misses its target'},
    'log_interval': {'huge': 'a run without these lines'},
    'channels_per_event': {'huge': 'the target ends the event'},
    'min_channels': {'huge': 'a floor above every width: nothing goes, and the target says that it cannot be reached'},
    'max_epochs': {'huge': 'a limit; the target ends the run'},
    'val_interval': {'huge': 'no validation before the end'},
    'RunRepair.rounds': {},
    'rounds': {'huge': 'a run with fewer epochs is refused when it starts'},
    'epochs': {'huge': 'a run with fewer epochs is refused when it starts'},
    'start': {'zero': 'at once', 'huge': 'a run with fewer epochs is refused when it starts'},
    'epoch_prune': {'huge': 'filters become zero at the start and the end only'},
    **dict.fromkeys(('loss_weight', 'inter_weight', 'intra_weight'), {'zero': 'without this part of the loss'}),
    's': {'zero': 'without a penalty'}, 'rate_dist': {'zero': 'the norm alone says what goes'},
    'ratio': {'zero': 'nothing goes but what levels name'},
    'positions': {'huge': 'all that a layer has'}, 'ThiNet.outputs': {'huge': 'all that a layer has'},
    'seed': {'zero': 'a seed', 'huge': 'a seed'}, 'alpha': {'zero': 'independence alone counts'},
    'samples': {'huge': 'all that there are'}, 'MeasuredError.images': {'huge': 'all that are held back'},
    'group': {'huge': 'all in one round'},
    'discrimination': {'zero': 'without the classes'}, 'steps': {'zero': 'without training'},
    'lr': {'zero': 'without training'}, 'indices': {'huge': 'all that there are'},
    'device_ids': {'list': "devices come from mmengine's Runner"}}


@pytest.mark.parametrize(('owner', 'name'), ARGUMENTS)
def test_wrong_value_of_an_argument_is_one_line(owner, name, made, monkeypatch):
    monkeypatch.setattr('mmprune.engine.distributed.MMDistributedDataParallel.__init__',
                        lambda self, **kwargs: torch.nn.Module.__init__(self))
    others = dict(ratio=0.3) if owner == 'PruningTarget' and name not in (*TARGETS, 'levels') else {}
    legal = LEGAL.get(f'{owner}.{name}', LEGAL.get(name, {}))
    for label, value in VALUES.items():
        found = outcome(CALLS[owner], {**filled(NEEDED.get(owner, {}), made), **others, name: value})
        if label in legal:
            assert found is None, f'{value!r} is legal ({legal[label]}), but refused: {found}'
        else:
            assert found is not None, f'{value!r} is taken'
            assert '\n' not in found
            assert len(found) < 500


def test_every_argument_is_found_and_every_call_works(made, monkeypatch):
    """The frame of the test above: the arguments that it keeps are taken."""
    monkeypatch.setattr('mmprune.engine.distributed.MMDistributedDataParallel.__init__',
                        lambda self, **kwargs: torch.nn.Module.__init__(self))
    names = {name for _, name in ARGUMENTS}
    assert {name.rpartition('.')[2] for name in LEGAL} <= names
    assert {'divisor', 'normalization_type', 'target_flop_ratio', 'interval', 'lr_ratio', 'save_ckpt_thr',
            'input_shape', 'finetune_lr', 'target', 'criterion'} <= names
    assert {*NEEDED} <= {*CALLS}
    for owner in {owner for owner, _ in ARGUMENTS}:
        others = dict(ratio=0.3) if owner == 'PruningTarget' else {}
        call, arguments = CALLS[owner], {**filled(NEEDED.get(owner, {}), made), **others}
        found = outcome(call, arguments)
        assert found is None, f'{owner}: {found}'
