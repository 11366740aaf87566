"""The small network of `mutated_files.py`, the files that it leaves, and how they are loaded and compared."""
import copy
import io
import json
import logging
import random
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import file_mutations
import file_readings
import numpy as np
import torch
from file_readings import GROUPED, INNER, STEM, Unreadable
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from torch import nn
from torch.nn import functional as F  # noqa: N812

import mmprune
from mmprune.arguments import UserError
from mmprune.deploy import onnx_runtime
from mmprune.deploy.load import load_model
from mmprune.deploy.onnx_export import export_onnx
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.checkpoint import load_weights
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.models.prune_sub_model import GroupFisherSubModel
from mmprune.registry import HOOKS, MODELS
from mmprune.units.structure import blamed_on, read_structure

SHAPE = [1, 3, 8, 8]
COUNTS = {STEM: 6, INNER: 4, GROUPED: 2}
KEPT = {STEM: [0, 2, 3, 4, 6, 7], INNER: [1, 2, 5], GROUPED: [1, 3]}
KINDS = ['structure'] * 30 + ['kept'] * 17 + ['pruned'] * 20 + ['finetuned'] * 18 + ['config'] * 5 + ['onnx'] * 10


class Block(nn.Module):
    """A residual block, which can be removed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the branch and the shortcut."""
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + x)


@MODELS.register_module()
class MutatedNet(BaseModel):
    """A stem, a residual block, a grouped convolution that ties channels in pairs, and a linear layer."""

    def __init__(self, data_preprocessor: Optional[dict] = None, init_cfg: Optional[dict] = None) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.block = Block()
        self.group, self.fc = nn.Conv2d(8, 4, 3, padding=1, groups=2), nn.Linear(4, 5)

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = 'tensor') -> torch.Tensor:
        """Return logits ``Tensor[N, 5]``."""
        x = self.block(F.relu(self.norm0(self.stem(inputs))))
        return self.fc(F.relu(self.group(x)).mean((2, 3)))


def _dense() -> MutatedNet:
    torch.manual_seed(0)
    model = MutatedNet()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.1)
    return model


DEMO = dict(type='mmprune.DemoInput', input_shape=SHAPE)
UNIT = dict(type='mmprune.GroupFisherChannelUnit', normalization_type='act', mutate_linear=True)
MUTATOR = dict(type='mmprune.GroupFisherChannelMutator', channel_unit_cfg=UNIT, demo_input=DEMO)
NET = dict(type='mmprune.MutatedNet')
PRUNE = dict(type='mmprune.GroupFisherAlgorithm', architecture=NET, mutator=MUTATOR, interval=5)
DEPLOY = dict(type='mmprune.GroupFisherDeploySubModel', architecture=NET, fix_subnet=COUNTS, divisor=1,
              demo_input=DEMO, mutate_linear=True)
#: Of an ONNX file that onnxruntime runs as PyTorch does, and onnx's own evaluator does not.
PARITY_ONLY: Dict[str, np.ndarray] = {}
HOOK = dict(type='mmprune.ResourceInfoHook', interval=10, resource_type='flops', save_ckpt_thr=[0.5])


class Case:
    """One file: its number, what it is drawn from, and whether the whole model is built."""

    def __init__(self, number: int, rng: random.Random, rebuild: bool) -> None:
        self.number, self.rng, self.rebuilt = number, rng, rebuild


class Subject:
    """The network, traced once, and its files."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        MMLogger.get_instance('mmengine').setLevel(logging.CRITICAL)
        self.path, self.good = folder / 'spoiled', folder / 'finetuned.pth'
        self.dense = _arrays(_dense())
        self._algorithm = GroupFisherAlgorithm(_dense(), MUTATOR, 5)
        self._plain = GroupFisherDeploySubModel(_dense(), COUNTS, 1, DEMO, mutate_linear=True)
        assert self._algorithm.mutator.blocks  # found once, not in every copy
        self._renew('algorithm'), self._renew('plain')
        self.before = {name: _arrays(getattr(self, name)) for name in ('algorithm', 'plain')}
        self.image = torch.rand(SHAPE)
        self.files = self._files(folder)
        self.others = [*self.files.values(), b'{}', b'[1]', b'{"conv_(0, 4)_4": 2}', _saved(
            dict(state_dict=nn.Conv2d(3, 4, 1).state_dict())), b'<html>404</html>', b'\x89PNG\r\n']

    def _renew(self, name: str) -> None:
        setattr(self, name, copy.deepcopy(getattr(self, f'_{name}')))

    def _files(self, folder: Path) -> Dict[str, bytes]:
        files = {'structure': _json(COUNTS), 'structure 2': _json({**COUNTS, INNER: 0}), 'kept': _json(KEPT)}
        pruned = copy.deepcopy(self.algorithm)
        pruned.mutator.apply_structure(KEPT)
        files['pruned'] = _saved(dict(meta=dict(epoch=1, iter=7), state_dict=pruned.state_dict()))
        pruned.mutator.apply_structure({**KEPT, INNER: []})
        files['pruned 2'] = _saved(dict(state_dict=pruned.state_dict()))
        plain = mmprune.apply_structure(_dense(), torch.zeros(SHAPE), COUNTS)
        files['finetuned'] = _saved(dict(meta=dict(epoch=1), state_dict=plain.state_dict()))
        self.deployed = export_onnx(plain.eval(), self.image, folder / 'net.onnx')
        files['onnx'] = (folder / 'net.onnx').read_bytes()
        self.good.write_bytes(files['finetuned'])
        return files

    def run(self, case: Case) -> Tuple[str, str, str, str]:
        """Spoil a file and load it; return its kind, how it was spoiled, the outcome, and what was said."""
        kind = case.rng.choice(KINDS)
        if kind == 'config':
            case.rebuilt = True
            return (kind, *self._config(case.rng))
        name = case.rng.choice([name for name in self.files if name.split()[0] == kind])
        how, content = self._spoil(kind, self.files[name], case.rng)
        self.path.write_bytes(content)
        case.rebuilt = case.rebuilt and kind != 'onnx'
        return (kind, how, *self._outcome(kind, how, case))

    def _spoil(self, kind: str, content: bytes, rng: random.Random) -> Tuple[str, bytes]:
        special: List[Any] = [file_mutations.spoil_state] * 2 + [file_mutations.spoil_pickle, file_mutations.spoil_old]
        if kind in ('structure', 'kept'):
            special = [file_mutations.spoil_json] * 2
        elif kind == 'onnx':
            special = [file_mutations.spoil_onnx] * 2
        change = rng.choice([None, None, *special])
        return change(content, rng) if change else file_mutations.spoil_bytes(content, rng, self.others)

    def _outcome(self, kind: str, how: str, case: Case) -> Tuple[str, str]:
        message, model = None, None
        try:
            model = getattr(self, f'_load_{kind}')(case)
        except UserError as error:
            message = str(error)
        except Exception as error:
            return 'traceback', f'{type(error).__name__}: {str(error)[:300]}'
        try:
            expected = getattr(self, f'_read_{kind}')()
        except Unreadable as error:
            expected = str(error)
        target = 'plain' if kind == 'finetuned' else 'algorithm'
        if message is not None:
            by_value = kind in ('structure', 'kept') or how not in file_mutations.BY_BYTES
            wanted = expected if by_value and kind != 'onnx' else ''  # what is readable, torch and onnxruntime say
            return self._refusal(message, wanted, None if case.rebuilt or kind == 'onnx' else target)
        if not case.rebuilt and kind != 'onnx':
            self._renew(target)
        if isinstance(expected, str):
            return 'wrong', f'loaded, but cannot be read: {expected}'
        if expected is PARITY_ONLY:
            return 'parity only', ''
        found = _arrays(model)
        different = sorted({*found} ^ {*expected}) or [
            key for key in found if not np.array_equal(found[key], expected[key], equal_nan=True)]
        return ('wrong', f'differs in {different[:3]}') if different else ('loaded', '')

    def _refusal(self, message: str, expected: Any, target: Optional[str]) -> Tuple[str, str]:
        if target is not None:
            now, before = _arrays(getattr(self, target)), self.before[target]
            if {*now} != {*before} or any(not np.array_equal(now[key], before[key]) for key in now):
                self._renew(target)
                return 'changed', message[:300]
        if len(message.splitlines()) > 12 or str(self.path) not in message.splitlines()[0]:
            return 'unnamed', message[:300]
        return ('refused' if isinstance(expected, str) else 'needless'), message

    # the package's readers, and what they must end in

    def _load_structure(self, case: Case) -> nn.Module:
        if case.rebuilt and case.rng.random() < 0.5:
            return mmprune.apply_structure(_dense(), torch.zeros(SHAPE), str(self.path))
        if case.rebuilt:
            return GroupFisherDeploySubModel(_dense(), str(self.path), 1, DEMO, mutate_linear=True)
        structure = read_structure(self.path)
        with blamed_on(self.path):
            self.algorithm.mutator.apply_structure(structure)
        return self.algorithm.architecture

    def _read_structure(self) -> Dict[str, np.ndarray]:
        return file_readings.cut(self.dense, file_readings.read_structure(self.path))

    _load_kept, _read_kept = _load_structure, _read_structure

    def _load_pruned(self, case: Case) -> nn.Module:
        if case.rebuilt:
            return GroupFisherSubModel(dict(PRUNE, init_cfg=dict(type='Pretrained', checkpoint=str(self.path))))
        self.algorithm.load_pruned(str(self.path))
        return self.algorithm.architecture

    def _read_pruned(self) -> Dict[str, np.ndarray]:
        channels, tensors = file_readings.pruned_model(file_readings.read_state(self.path))
        return file_readings.weights_of(tensors, _shapes(file_readings.cut(self.dense, channels)))

    def _load_finetuned(self, case: Case) -> nn.Module:
        if case.rebuilt:
            return load_model(Config(dict(model=DEPLOY)), str(self.path))
        load_weights(self.plain, str(self.path))
        return self.plain

    def _read_finetuned(self) -> Dict[str, np.ndarray]:
        state = file_readings.read_state(self.path)
        if any(key.startswith('mutator.kept.') for key in state):
            state = {key[len('architecture.'):]: value for key, value in state.items() if key.startswith('architec')}
        channels = file_readings.channels_of(COUNTS)
        return file_readings.weights_of(state, _shapes(file_readings.cut(self.dense, channels)))

    def _load_onnx(self, case: Case) -> nn.Module:
        onnx_runtime.compare(self.path, self.deployed, self.image, rounds=1)
        return self.deployed.model

    def _read_onnx(self) -> Dict[str, np.ndarray]:
        import onnx.reference  # an optional dependency

        with torch.no_grad():
            wanted = self.deployed(self.image).numpy()
        try:
            reference = onnx.reference.ReferenceEvaluator(str(self.path))
            found = reference.run(None, {reference.input_names[0]: self.image.numpy()})[0]
        except Exception:  # onnxruntime takes more than the reference does
            return PARITY_ONLY
        if not np.allclose(wanted, found, rtol=1e-3, atol=1e-4 * np.abs(wanted).max()):
            raise Unreadable('it computes something else')
        return _arrays(self.deployed.model)

    # configs, by their values

    def _config(self, rng: random.Random) -> Tuple[str, str, str]:
        """Build the model or hook of a config with another value; return where, the outcome, and what was said."""
        kind, plain = rng.choice([('prune', PRUNE), ('prune', PRUNE), ('deploy', DEPLOY), ('deploy', DEPLOY),
                                  ('hook', HOOK)])
        cfg = copy.deepcopy(plain)
        place, value = file_mutations.spoil_values(cfg, rng)
        where, name = f'{kind}: {".".join(map(str, place))} = {str(value)[:40]}', [
            part for part in place if isinstance(part, str)][-1]
        sound = file_readings.is_sound(cfg, name)
        try:
            if kind == 'hook':
                hook = HOOKS.build(cfg)
                equal = [hook.interval, hook.resource_type, hook.targets] == [
                    cfg['interval'], cfg['resource_type'], sorted(cfg['save_ckpt_thr'], reverse=True)]
            elif kind == 'deploy':
                model = load_model(Config(dict(model=cfg)), str(self.good))
                equal = model.fix_subnet == file_readings.padded(cfg['fix_subnet'], cfg['divisor'])
            else:
                algorithm = MODELS.build(cfg)
                equal = algorithm.interval == cfg['interval'] and list(
                    algorithm.mutator.structure) == file_readings.units_of(cfg)
        except UserError as error:
            parts = [name, repr(value)[1:40], self.good.name, *(map(repr, value) if isinstance(value, list) else ())]
            named = any(part in str(error) for part in parts)
            return where, 'needless' if sound else 'refused' if named else 'unnamed', str(error)[:300]
        except Exception as error:
            return where, 'traceback', f'{type(error).__name__}: {str(error)[:300]}'
        return (where, 'loaded', '') if sound and equal else (where, 'wrong', 'it is not what it says')


def _arrays(model: nn.Module) -> Dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in model.state_dict().items()
            if not key.endswith('num_batches_tracked')}


def _shapes(arrays: Dict[str, np.ndarray]) -> Dict[str, Tuple[int, ...]]:
    return {key: value.shape for key, value in arrays.items()}


def _json(structure: Dict[str, Any]) -> bytes:
    return (json.dumps(structure, indent=4) + '\n').encode()


def _saved(checkpoint: Any) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()
