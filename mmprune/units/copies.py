"""Copies of a model: in float64, or sharing the storage of the parameters."""
import copy
import io
import types
from collections import OrderedDict
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from ..arguments import UserError

#: Objects whose copies would be the same, or cannot exist.
SHARED = (types.ModuleType, io.IOBase, torch.jit.ScriptFunction, types.GeneratorType)
CONTAINERS = (list, tuple, set, frozenset)
#: Containers that are copied by themselves where they are empty.
EMPTY = (dict, OrderedDict, list, set)


def double_copy(model: nn.Module) -> nn.Module:
    """Return a copy in float64 on the CPU, without synchronised batch norms, which need a GPU."""
    return _cpu_copy(model, torch.float64)


def float_copy(model: nn.Module) -> nn.Module:
    """Return a copy in float32 on the CPU, without synchronised batch norms."""
    return _cpu_copy(model, torch.float32)


def _cpu_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    def converted(tensor: Tensor) -> Tensor:
        return tensor.to('cpu', dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    copied = _copy(model, converted)
    if any(type(module).__name__ == 'SyncBatchNorm' for module in model.modules()):  # else do not load mmcv for nothing
        copied = revert_sync_batchnorm(copied)
    copied = copied.cpu()
    return copied.double() if dtype == torch.float64 else copied.float()  # complex numbers stay


def sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy that shares the storage of the parameters: replace them, do not write into them."""
    return _copy(model, lambda tensor: tensor)


def own_copy(model: nn.Module) -> nn.Module:
    """Return a copy that shares nothing that a cut or a repair changes, of the same dtype and on the same device."""
    return _copy(model, lambda tensor: tensor.clone())


def _copy(model: nn.Module, value: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a model; parameters, and tensors that modules keep, are ``value`` of the original ones.

    What cannot be copied (locks, open files, compiled functions) is shared.

    Raises:
        UserError: Something can neither be copied nor be shared; the message names the module and its attribute.
    """
    memo: Dict[int, Any] = {id(parameter): type(parameter)(value(parameter.data), requires_grad=parameter.requires_grad)
                            for parameter in model.parameters() if isinstance(parameter, nn.Parameter)}
    memo.update(_empty_containers(model))
    memo.update({id(kept): value(kept.detach().clone()) for _, _, kept in _kept(model)
                 if isinstance(kept, Tensor)})  # deepcopy fails on those with a graph
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # noqa: BLE001  (whatever an attribute raises)
        memo.update({id(kept): kept for _, _, kept in _kept(model) if not _can_be_copied(kept)})
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # noqa: BLE001
        raise UserError(f'{_culprit(model, memo)} cannot be copied ({type(error).__name__}: {error}), which the trial '
                        'cut needs: set it to None while the model is pruned') from error


def _empty_containers(model: nn.Module) -> Dict[int, Any]:
    """Return the copies of the empty containers of modules, such as those of hooks: most of what there is to copy."""
    return {id(value): type(value)() for module in model.modules() for value in vars(module).values()
            if type(value) in EMPTY and not value}


def _kept(model: nn.Module) -> Iterator[Tuple[str, str, Any]]:
    """Return module name, attribute and value of what modules keep beside parameters and buffers, containers opened."""
    seen = {id(parameter) for parameter in model.parameters()}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in ('_parameters', '_buffers', '_modules'):
                for item in _opened(value, seen):
                    yield name, attribute, item


def _opened(value: Any, seen: set) -> Iterator[Any]:
    """Return a value, or what it holds where it is a container or a plain object, each thing once."""
    waiting: List[Any] = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (nn.Module, type, str, int, float, types.FunctionType)):
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, CONTAINERS):
            waiting.extend(item)
        elif isinstance(getattr(item, '__dict__', None), dict) and not isinstance(item, (Tensor, *SHARED)):
            waiting.extend(vars(item).values())
        else:
            yield item


def _can_be_copied(value: Any) -> bool:
    if isinstance(value, SHARED):
        return False
    try:
        copy.deepcopy(value)
    except Exception:  # noqa: BLE001
        return False
    return True


def _culprit(model: nn.Module, memo: Dict[int, Any]) -> str:
    """Name the module and the attribute that cannot be copied."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ('_parameters', '_buffers', '_modules'):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:  # noqa: BLE001
                return f'attribute {attribute!r} of module {name!r} ({type(value).__name__})'
    return f'{type(model).__name__}'
