"""Read checkpoints, with errors that name what is wrong with them, and write them whole or not at all."""
import pickle
import zipfile
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from ..arguments import UserError, nearest
from ..files import whole_file
from ..units import mutator

#: Prefixes of the keys of a prune run's checkpoint: the weights of its model, and the structure.
ARCHITECTURE, KEPT = 'architecture.', f'mutator.{mutator.KEPT}'

#: Keys of torchvision's MobileNetV2, which OpenMMLab names otherwise.
TORCHVISION_KEYS = {'features.0.0.weight', 'features.18.0.weight', 'classifier.1.weight'}
TORCHVISION_HINT = ('; it is a mobilenet_v2 of torchvision: convert it with tools/model_converters/from_torchvision.py '
                    '(mmprune convert-torchvision)')


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable or of another model."""


def read_state_dict(path: str, role: str = 'checkpoint') -> Dict[str, Any]:
    """Return the state dict of a checkpoint file or URL, without a ``module.`` prefix.

    Args:
        path (str): File, or a URL that mmengine can download.
        role (str): What the checkpoint is for, for the error message (``pretrained_path``...).

    Raises:
        CheckpointError: The file does not exist or is not a PyTorch checkpoint.
    """
    if '://' in str(path):
        try:
            checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        except OSError as error:  # what urllib raises
            raise CheckpointError(f'{role}: {path} cannot be downloaded ({_first_line(error)})') from None
    else:
        checkpoint = _load_file(Path(path), role)
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f'{role}: {str(path)!r} holds no state dict; it must be a dict of tensors, or hold '
                              "one as 'state_dict'")
    return {key[len('module.'):] if key.startswith('module.') else key: value for key, value in state.items()}


def check_exists(path: str, role: str = 'checkpoint') -> None:
    """Raise CheckpointError if there is no such file, before a model is built for it; a URL is not looked at."""
    if '://' not in str(path) and not Path(path).is_file():
        raise CheckpointError(f'{role}: there is no file {str(path)!r}; set {role} to the path or URL of a checkpoint')


def _load_file(path: Path, role: str) -> Any:
    check_exists(str(path), role)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, EOFError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
        if not isinstance(error, pickle.UnpicklingError) or 'weights' not in str(error).lower():
            raise CheckpointError(f'{role}: {str(path)!r} is not a readable PyTorch checkpoint '
                                  f'({_first_line(error)}); is the file complete?') from None
    try:  # training checkpoints contain the message hub and other objects besides tensors
        checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, AttributeError, ImportError) as error:
        raise CheckpointError(f'{role}: {str(path)!r} is not a readable PyTorch checkpoint '
                              f'({_first_line(error)}); is the file complete?') from None
    print_log(f'{path} holds more than tensors; it was loaded with pickle, which can run code: use files you trust',
              logger='current')
    return checkpoint


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def load_weights(module: nn.Module, path: str, role: str = 'checkpoint') -> None:
    """Load a checkpoint file or URL into a module, by :func:`read_state_dict` and :func:`load_state`.

    Raises:
        CheckpointError: The file cannot be read or does not fit; the message says why.
    """
    load_state(module, read_state_dict(path, role), f'{role}: {str(path)!r}')


def read_weights(path: str, role: str = 'checkpoint') -> Dict[str, Any]:
    """Return the weights of a plain model from its checkpoint, or from that of the prune run that made it.

    Raises:
        CheckpointError: The file does not exist or is not a PyTorch checkpoint.
    """
    return _plain(read_state_dict(path, role))


def _plain(state: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the entries of a prune run's architecture as those of a plain model; any other state dict as it is."""
    if not any(key.startswith(KEPT) for key in state):
        return dict(state)
    return {key[len(ARCHITECTURE):]: value for key, value in state.items() if key.startswith(ARCHITECTURE)}


def load_state(module: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load a state dict into a module, also that of a prune run into the plain model of its structure.

    Keys that the module does not have are logged; ``source`` says where the weights come from, for messages.

    Raises:
        CheckpointError: Keys are missing or shapes differ; the message names the first of them.
    """
    own = module.state_dict()
    if not any(key.startswith(ARCHITECTURE) for key in own):
        state = _plain(state)
    check_fit(module, state, source)
    unexpected = [key for key in state if key not in own]
    if unexpected:
        print_log(f'{source}: {len(unexpected)} keys are not used by the model: {unexpected[:5]}', logger='current')
    module.load_state_dict(dict(state), strict=False)


def check_fit(module: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError unless a state dict has every key of a module, in its shape."""
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith('num_batches_tracked')]
    wrong = [f'{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model'
             for key in own if key in state and state[key].shape != own[key].shape]
    problems = ''
    if missing:
        problems += f'; {len(missing)} keys are missing, first {missing[0]!r}{nearest(missing[0], list(state))}'
    if wrong:
        problems += f'; {len(wrong)} shapes differ, first {wrong[0]}'
    if problems:
        hint = TORCHVISION_HINT if missing and {*state} >= TORCHVISION_KEYS else ''
        raise CheckpointError(f'{source} is not a checkpoint of this {type(module).__name__}{problems}{hint}')


def latest_checkpoint(work_dir: str) -> Optional[str]:
    """Return the newest whole checkpoint in a work dir, that which ``last_checkpoint`` names before others; or None."""
    folder, pointer = Path(work_dir), Path(work_dir) / 'last_checkpoint'
    last = [Path(pointer.read_text().strip())] if pointer.is_file() else []
    others = sorted([*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')], key=lambda path: -path.stat().st_mtime)
    for path in [*last, *(other for other in others if other not in last)]:
        if path.is_file() and _is_whole(path):
            return str(path)
        print_log(f'{path} is {"incomplete" if path.is_file() else "gone"}; the checkpoint before it is used',
                  logger='current', level=30)
    return None


def _is_whole(path: Path) -> bool:
    """Tell whether a file of torch.save can be read to its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


def save_whole(checkpoint: Mapping[str, Any], path: str) -> None:
    """Write a checkpoint; it appears whole or not at all."""
    with whole_file(path) as temporary:
        torch.save(checkpoint, temporary)
