"""State dicts: read from checkpoints, checked against a module as a whole, loaded; written whole or not at all."""
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..arguments import nearest
from ..files import whole_file
from ..units import kept_state
from .checkpoint_file import CheckpointError, is_whole, read_file, read_url

#: Prefixes of the keys of a prune run's checkpoint: the weights of its model, and the structure.
ARCHITECTURE, KEPT = 'architecture.', f'mutator.{kept_state.KEPT}'

#: Keys of torchvision's MobileNetV2, which OpenMMLab names otherwise.
TORCHVISION_KEYS = {'features.0.0.weight', 'features.18.0.weight', 'classifier.1.weight'}
TORCHVISION_HINT = ('; it is a mobilenet_v2 of torchvision: convert it with tools/model_converters/from_torchvision.py '
                    '(mmprune convert-torchvision)')


def read_state_dict(path: str, role: str = 'checkpoint') -> Dict[str, Any]:
    """Return the state dict of a checkpoint file or URL, without a ``module.`` prefix.

    Args:
        path (str): File, or a URL that mmengine can download.
        role (str): What the checkpoint is for, for the error message (``pretrained_path``...).

    Raises:
        CheckpointError: The file does not exist, is damaged, or holds no state dict.
    """
    return state_of(read_checkpoint(path, role), path, role)


def read_checkpoint(path: str, role: str = 'checkpoint') -> Any:
    """Return all that a checkpoint file or URL holds; arguments and errors as for :func:`read_state_dict`."""
    return read_url(str(path), role) if '://' in str(path) else read_file(Path(path), role)


def state_of(checkpoint: Any, path: str, role: str) -> Dict[str, Any]:
    """Return the state dict of what :func:`read_checkpoint` returned, as :func:`read_state_dict` does."""
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f'{role}: {str(path)!r} holds no state dict; it must be a dict of tensors, or hold '
                              "one as 'state_dict'")
    other = [key for key in state if not isinstance(key, str)]
    if other:
        raise CheckpointError(f'{role}: {str(path)!r} holds no state dict: the key {other[0]!r} is no name')
    plain = {key[len('module.'):] if key.startswith('module.') else key: value for key, value in state.items()}
    if len(plain) < len(state):
        raise CheckpointError(f"{role}: {str(path)!r} has the same key with and without 'module.'")
    return plain


def check_exists(path: str, role: str = 'checkpoint') -> None:
    """Raise CheckpointError if there is no such file, before a model is built for it; a URL is not looked at."""
    if '://' not in str(path) and not Path(path).is_file():
        raise CheckpointError(f'{role}: there is no file {str(path)!r}; set {role} to the path or URL of a checkpoint')


def is_dense(value: Any) -> bool:
    """Tell whether a value is a tensor with a number in memory for each element."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta and not value.is_quantized


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
    return plain_weights(read_state_dict(path, role))


def plain_weights(state: Mapping[str, Any]) -> Dict[str, Any]:
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
        state = plain_weights(state)
    check_fit(module, state, source)
    unexpected = [key for key in state if key not in own]
    if unexpected:
        print_log(f'{source}: {len(unexpected)} keys are not used by the model: {unexpected[:5]}', logger='current')
    module.load_state_dict(dict(state), strict=False)


def check_fit(module: nn.Module, state: Mapping[str, Any], source: str,
              shapes: Optional[Mapping[str, Sequence[int]]] = None) -> None:
    """Check that a state dict has every key of a module, in its shape and kind; the module is not changed.

    Args:
        module (nn.Module): What the state dict is for.
        state (dict[str, Tensor]): The state dict.
        source (str): Where it comes from, for the error message.
        shapes (dict[str, tuple[int]], optional): Key -> shape, as the module will have them; default: as it has them.

    Raises:
        CheckpointError: A key is missing, or a value has another shape or is of another kind.
    """
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    wanted = {key: tuple(shape) for key, shape in (shapes or {key: own[key].shape for key in own}).items()}
    missing = [key for key in wanted if key not in state and not key.endswith('num_batches_tracked')]
    there = [key for key in wanted if key in state]
    kinds = [f'{key}: {found} in the file, {own[key].dtype} in the model' for key in there
             for found in [_other_kind(state[key], own[key])] if found]
    wrong = [f'{key}: {tuple(state[key].shape)} in the file, {wanted[key]} in the model'
             for key in there if isinstance(state[key], Tensor) and tuple(state[key].shape) != wanted[key]]
    problems = ''
    if missing:
        problems += f'; {len(missing)} keys are missing, first {missing[0]!r}{nearest(missing[0], list(state))}'
    if wrong:
        problems += f'; {len(wrong)} shapes differ, first {wrong[0]}'
    if kinds:
        problems += f'; {len(kinds)} values are of another kind, first {kinds[0]}'
    if problems:
        hint = TORCHVISION_HINT if missing and {*state} >= TORCHVISION_KEYS else ''
        raise CheckpointError(f'{source} is not a checkpoint of this {type(module).__name__}{problems}{hint}')


def _other_kind(value: Any, own: Tensor) -> Optional[str]:
    """Return what a value is if its numbers cannot become those of a tensor, or None."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if not is_dense(value):
        return f'a tensor that is not dense ({value.layout})'
    same = value.is_floating_point() == own.is_floating_point() and value.is_complex() == own.is_complex()
    return None if same else str(value.dtype)


def latest_checkpoint(work_dir: str) -> Optional[str]:
    """Return the newest whole checkpoint in a work dir, that which ``last_checkpoint`` names before others; or None."""
    folder, pointer = Path(work_dir), Path(work_dir) / 'last_checkpoint'
    last = [Path(pointer.read_text().strip())] if pointer.is_file() else []
    others = sorted([*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')], key=lambda path: -path.stat().st_mtime)
    for path in [*last, *(other for other in others if other not in last)]:
        if path.is_file() and is_whole(path):
            return str(path)
        print_log(f'{path} is {"incomplete" if path.is_file() else "gone"}; the checkpoint before it is used',
                  logger='current', level=30)
    return None


def save_whole(checkpoint: Mapping[str, Any], path: str) -> None:
    """Write a checkpoint; it appears whole or not at all."""
    with whole_file(path) as temporary:
        torch.save(checkpoint, temporary)
