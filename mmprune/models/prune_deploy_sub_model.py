"""A pruned model built from its structure, to load a finetuned checkpoint, be padded and be exported."""
import types
from typing import Any, Dict, Optional, Sequence, Union

from torch import nn

from ..arguments import check_divisor
from ..registry import MODELS, load_plugins
from ..units.choice import Patterns
from ..units.mutator import ChannelMutator
from ..units.structure import blamed_on, read_structure
from .architecture import build_architecture, prepare
from .checkpoint import check_fit, plain_weights
from .divisor import pad
from .prune_sub_model import FIX_SUBNET, make_static


@MODELS.register_module()
def GroupFisherDeploySubModel(architecture: Union[dict, nn.Module], fix_subnet: Union[dict, str],  # noqa: N802
                              divisor: int = 1, demo_input: Union[None, dict, Sequence[dict]] = None,
                              data_preprocessor: Optional[dict] = None, mutate_linear: bool = False,
                              include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                              init_cfg: Optional[dict] = None) -> nn.Module:
    """Build a pruned model from its structure, to load a finetuned checkpoint, or to be pruned further by another run.

    Args:
        architecture (dict or nn.Module): The dense model.
        fix_subnet (dict or str): The structure, or its json file.
        divisor (int): After loading, ``model.switch_to_deploy()`` pads units with zero channels to a multiple of it.
        demo_input (dict): How to run the model once; see :mod:`mmprune.graph.demo_input`.
        data_preprocessor (dict, optional): Given to the architecture.
        mutate_linear (bool): As in the prune run: linear layers have units too.
        include (str or list[str], optional): As in the prune run: patterns of the layers that it pruned.
        exclude (str or list[str], optional): As in the prune run: patterns of the layers that it did not prune.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=...)``, from which another prune run starts.

    Returns:
        nn.Module: The architecture with the widths of ``fix_subnet``.

    Raises:
        StructureError: ``fix_subnet`` cannot be read or does not fit the model.
    """
    check_divisor(divisor)
    load_plugins()
    structure, (module, _) = read_structure(fix_subnet), build_architecture(architecture, data_preprocessor)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=mutate_linear), demo_input, include, exclude)
    prepare(mutator, module, structure)
    with blamed_on(fix_subnet):
        mutator.apply_structure(structure)
    model = make_static(module, mutator)
    if init_cfg is not None:
        model.init_cfg = init_cfg  # type: ignore[assignment]
    own = getattr(model, '_own_switch_to_deploy', getattr(model, 'switch_to_deploy', None))  # the first if pruned twice
    for name, value in (('_mutator', mutator), ('_divisor', divisor), ('_own_switch_to_deploy', own)):
        object.__setattr__(model, name, value)  # not as a child: the state dict stays that of the architecture
    model.switch_to_deploy = types.MethodType(_switch_to_deploy, model)
    model._register_load_state_dict_pre_hook(_take_what_fits, with_module=True)
    return model


def _take_what_fits(module: nn.Module, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
    """Let the state of a prune run be that of its architecture.

    Raises CheckpointError before anything is loaded: mmengine's loader would only log what does not fit.
    """
    own = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    plain = plain_weights(own)
    check_fit(module, plain, 'the checkpoint (is fix_subnet its structure?)')
    for key in own:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in plain.items()})


def _switch_to_deploy(model: nn.Module) -> None:
    """Pad to the divisor, then do what the architecture itself does for deployment."""
    pad(model._mutator, model._divisor)
    setattr(model, FIX_SUBNET, dict(model._mutator.portable_structure))
    object.__setattr__(model, '_divisor', 1)
    if model._own_switch_to_deploy is not None:
        model._own_switch_to_deploy()

