"""Pruned models without the algorithm: for finetuning and testing, and for deployment."""
import types
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..registry import MODELS, build, load_plugins
from ..units.choice import Patterns
from ..units.mutator import ChannelMutator
from ..units.structure import Structure, read_structure
from ..units.surgery import padding_blocks
from ..units.unit import ChannelUnit
from .architecture import build_architecture
from .checkpoint import check_fit
from .pruning_algorithm import PruningAlgorithm

FIX_SUBNET = 'fix_subnet'


def structure_of(model: nn.Module) -> Optional[Structure]:
    """Return the structure of a model made by this module, or None."""
    return getattr(model, FIX_SUBNET, None)


@MODELS.register_module()
def GroupFisherSubModel(algorithm: Union[dict, PruningAlgorithm], divisor: int = 1,  # noqa: N802
                        data_preprocessor: Optional[dict] = None) -> nn.Module:
    """Turn an algorithm with a pruned checkpoint into a plain, static, smaller model.

    Args:
        algorithm (dict or PruningAlgorithm): The pruning algorithm, of any kind; as a config, its
            ``init_cfg=dict(type='Pretrained', checkpoint=...)`` names the pruned checkpoint.
        divisor (int): Widen every unit to a multiple, as far as its original width allows, with fresh channels that
            change nothing at the start: producers newly initialised, consumer columns zero.
        data_preprocessor (dict, optional): Belongs to the architecture, and is given to it.

    Returns:
        nn.Module: The architecture, its state dict keys those of the dense model, ``model.fix_subnet`` its structure.
    """
    check_divisor(divisor)
    if isinstance(algorithm, dict):
        given = {} if data_preprocessor is None else dict(data_preprocessor=data_preprocessor)
        algorithm = build(MODELS, {**given, **algorithm})
    if not isinstance(algorithm, PruningAlgorithm):
        raise TypeError('algorithm must be a PruningAlgorithm, such as a GroupFisherAlgorithm, or its config, not '
                        f'{type(algorithm).__name__}')
    algorithm.init_weights()
    mutator = algorithm.mutator
    mutator.release()
    if divisor > 1:
        widen(mutator, divisor)
    return make_static(algorithm.architecture, mutator)


@MODELS.register_module()
def GroupFisherDeploySubModel(architecture: Union[dict, nn.Module], fix_subnet: Union[dict, str],  # noqa: N802
                              divisor: int = 1, demo_input: Optional[dict] = None,
                              data_preprocessor: Optional[dict] = None, mutate_linear: bool = False,
                              include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                              init_cfg: Optional[dict] = None) -> nn.Module:
    """Build a pruned model from its structure, ready to load a finetuned checkpoint and to be exported.

    It can also be the dense model of another prune run, which prunes it further.

    Args:
        architecture (dict or nn.Module): The dense model.
        fix_subnet (dict or str): The structure, or the path of its json file.
        divisor (int): ``model.switch_to_deploy()``, to be called after loading, pads every unit with zero channels to
            a multiple; outputs do not change.
        demo_input (dict): How to run the model once; see :mod:`mmprune.graph.demo_input`.
        data_preprocessor (dict, optional): Belongs to the architecture, and is given to it.
        mutate_linear (bool): As in the prune run: whether linear layers have units too.
        include (str or list[str], optional): As in the prune run: patterns of the layers that it pruned.
        exclude (str or list[str], optional): As in the prune run: patterns of the layers that it left.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=...)``: the finetuned checkpoint that another
            prune run starts from.

    Returns:
        nn.Module: The architecture with the widths of ``fix_subnet``.

    Raises:
        StructureError: ``fix_subnet`` cannot be read or does not fit the model.
    """
    check_divisor(divisor)
    load_plugins()
    structure = read_structure(fix_subnet)
    module, _ = build_architecture(architecture, data_preprocessor)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=mutate_linear), demo_input, include, exclude)
    mutator.prepare(module, proven=structure)
    mutator.apply_structure(structure)
    model = make_static(module, mutator)
    if init_cfg is not None:
        model.init_cfg = init_cfg  # type: ignore[assignment]
    object.__setattr__(model, '_mutator', mutator)  # no child: the state dict stays that of the architecture
    object.__setattr__(model, '_divisor', divisor)
    if not hasattr(model, '_own_switch_to_deploy'):  # else it was pruned before
        object.__setattr__(model, '_own_switch_to_deploy', getattr(model, 'switch_to_deploy', None))
    model.switch_to_deploy = types.MethodType(_switch_to_deploy, model)
    # whoever loads it: mmengine's loader only logs what does not fit
    model._register_load_state_dict_pre_hook(_refuse_what_does_not_fit, with_module=True)
    return model


def _refuse_what_does_not_fit(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
    """Raise CheckpointError before anything is loaded."""
    own = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    check_fit(module, own, 'the checkpoint (is fix_subnet its structure?)')


def check_divisor(divisor: Any) -> None:
    """Raise ValueError unless the divisor is a whole number of at least 1."""
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
        raise ValueError(f'divisor is {divisor!r}; channels are made a multiple of it, so it must be 1 or more and '
                         'whole')


def make_static(model: nn.Module, mutator: ChannelMutator) -> nn.Module:
    """Name the structure, and keep the weights that are there: a Runner initialises models before it trains them."""
    setattr(model, FIX_SUBNET, dict(mutator.structure))
    object.__setattr__(model, '_kept_outputs', _kept_outputs(mutator))
    for module in model.modules():
        if hasattr(module, '_is_init'):
            module.init_cfg, module._is_init = None, True
    if hasattr(model, 'init_weights'):
        model.init_weights = types.MethodType(_keep_weights, model)
    return model


def _kept_outputs(mutator: ChannelMutator) -> Dict[str, np.ndarray]:
    """Return pruned layer -> original numbers of the channels that it still puts out, in their order."""
    outputs: Dict[str, np.ndarray] = {}
    for tensor, members in mutator.surgery.members.items():
        layer, _, kind = tensor.rpartition('.')
        axis = next((member.axis for _, member in members if member.axis.role in ('out', 'depthwise', 'affine')), None)
        if kind == 'weight' and axis is not None:
            outputs[layer] = mutator.layout(tensor)[axis.dim].astype(int)
    return outputs


def kept_outputs(model: nn.Module, layer: str) -> Optional[np.ndarray]:
    """Return the original numbers of the channels that a layer of a pruned model puts out; None if it has them all."""
    kept: Dict[str, np.ndarray] = getattr(model, '_kept_outputs', {})
    return kept.get(layer)


def _keep_weights(model: nn.Module) -> None:
    """Weights come from the checkpoint."""


def _switch_to_deploy(model: nn.Module) -> None:
    """Pad to the divisor, then do what the architecture itself does for deployment."""
    pad(model._mutator, model._divisor)
    setattr(model, FIX_SUBNET, dict(model._mutator.structure))
    object.__setattr__(model, '_divisor', 1)
    if model._own_switch_to_deploy is not None:
        model._own_switch_to_deploy()


def divisible_classes(unit: ChannelUnit, divisor: int) -> int:
    """Return the least number of classes, not under the present one, whose channels are a multiple of the divisor."""
    classes = unit.num_classes
    while classes * unit.multiplicity % divisor:
        classes += 1
    return classes


def pad(mutator: ChannelMutator, divisor: int) -> None:
    """Pad every unit with zero channels to a multiple of the divisor; the function of the model is unchanged.

    Dropped channels come back as zeros first; beyond the original width only what the multiple needs is added.
    """
    masks, padding = {}, {}
    for unit in mutator.units:
        wanted = divisible_classes(unit, divisor)
        beyond = max(0, wanted - len(unit.kept))
        if beyond and any(padding_blocks(member.index) is None for member in unit.channels.members):
            print_log(f'{unit.name} interleaves with other units and cannot be padded beyond its original width; '
                      'it is padded to that', logger='current', level=30)
            beyond = 0
        masks[unit.name], padding[unit.name] = _revive(unit, min(wanted, len(unit.kept))), beyond
    mutator.cut(masks, padding=padding)


def _revive(unit: ChannelUnit, classes: int) -> np.ndarray:
    """Return the mask with dropped classes added, the first ones first, until there are so many."""
    mask = unit.kept.copy()
    mask[np.flatnonzero(~mask)[:classes - int(mask.sum())]] = True
    return mask


def widen(mutator: ChannelMutator, divisor: int) -> None:
    """Widen units towards a multiple of the divisor, never past the original width, for further training.

    Fresh channels get newly initialised producers and unit batch norms; their consumers' columns are zero, so that the
    outputs are unchanged at first and the channels can be learnt.
    """
    masks = {unit.name: _revive(unit, min(divisible_classes(unit, divisor), len(unit.kept)))
             for unit in mutator.units}
    fresh = {unit.name: masks[unit.name] & ~unit.kept for unit in mutator.units}
    mutator.cut(masks)
    rows, columns = _fresh_indices(mutator, fresh)
    tensors = dict([*mutator.model.named_parameters(), *mutator.model.named_buffers()])
    with torch.no_grad():
        for (name, role, dim), index in rows.items():
            _initialise(tensors[name], name, role, dim, index)
        for (name, _, dim), index in columns.items():
            tensors[name].index_fill_(dim, index.to(tensors[name].device), 0.0)


Fresh = Dict[Tuple[str, str, int], Tensor]


def _fresh_indices(mutator: ChannelMutator, fresh: Mapping[str, np.ndarray]) -> Tuple[Fresh, Fresh]:
    """Return (tensor, role, axis) -> present indices of fresh channels, for all axes but columns and for columns."""
    found: List[Fresh] = [{}, {}]
    originals: Dict[Tuple[str, str, int], List[np.ndarray]] = {}
    for unit in mutator.units:
        for member in unit.channels.members:
            key = (member.axis.tensor, member.axis.role, member.axis.dim)
            originals.setdefault(key, []).append(member.index[fresh[unit.name]].reshape(-1))
    for key, parts in originals.items():
        index = np.concatenate(parts)
        if len(index):
            layout = mutator.layout(key[0])[key[2]]
            found[key[1] == 'in'][key] = torch.from_numpy(np.searchsorted(layout, index))
    return found[0], found[1]


def _initialise(tensor: Tensor, name: str, role: str, dim: int, index: Tensor) -> None:
    index = index.to(tensor.device)
    if role == 'affine':
        one = name.endswith(('running_var', '.weight'))
        tensor.index_fill_(dim, index, 1.0 if one else 0.0)
        return
    scratch = torch.empty_like(tensor)
    nn.init.kaiming_normal_(scratch, mode='fan_out', nonlinearity='relu')
    tensor.index_copy_(dim, index, scratch.index_select(dim, index))
