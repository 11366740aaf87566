"""A pruned part of a model, such as its backbone, in another model that is still to be trained."""
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from torch import nn

from ..registry import MODELS, load_plugins
from ..units.mutator import ChannelMutator
from ..units.structure import blamed_on, read_structure, relocation
from .architecture import build_architecture, prepare
from .checkpoint import check_fit, read_weights
from .prune_sub_model import make_static


@MODELS.register_module()
def TransferredSubModel(architecture: Union[dict, nn.Module], fix_subnet: Union[dict, str],  # noqa: N802
                        checkpoint: str, part: str = 'backbone', demo_input: Union[None, dict, Sequence[dict]] = None,
                        mutate_linear: bool = False, data_preprocessor: Optional[dict] = None) -> nn.Module:
    """Build a model with a part that was pruned in another model; the rest is dense and newly initialised.

    Args:
        architecture (dict or nn.Module): The dense model; consumers of the part's outputs are cut too.
        fix_subnet (dict or str): Structure of the other model, of which only this part was pruned, or its json file.
            The part may have another prefix in it.
        checkpoint (str): The other model's checkpoint; only the part's weights are read.
        part (str): Name of the part in ``architecture``.
        demo_input (dict): How to run ``architecture`` once; see :mod:`mmprune.graph.demo_input`.
        mutate_linear (bool): As in the prune run: linear layers have units too.
        data_preprocessor (dict, optional): Given to the architecture.

    Returns:
        nn.Module: The architecture, ready to be trained; ``model.fix_subnet`` is its structure.

    Raises:
        StructureError: The structure does not fit the part.
        CheckpointError: The checkpoint is missing or does not contain the part in this structure.
    """
    load_plugins()
    structure = read_structure(fix_subnet)
    model, self_initialised = build_architecture(architecture, data_preprocessor)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=mutate_linear), demo_input, include=part)
    prepare(mutator, model, structure)
    with blamed_on(fix_subnet):
        old_prefix, new_prefix = relocation(structure, [unit.name for unit in mutator.units])
    if self_initialised and hasattr(model, 'init_weights'):
        model.get_submodule(part).init_cfg = None  # its weights come from the checkpoint
        model.init_weights()
    with blamed_on(fix_subnet):
        mutator.apply_structure(structure)
    source = f'checkpoint: {checkpoint!r} (is fix_subnet its structure?)'
    _load_part(model.get_submodule(part), read_weights(checkpoint), old_prefix + f'{part}.'[len(new_prefix):], source)
    return make_static(model, mutator)


def _load_part(module: nn.Module, state: Mapping[str, Any], prefix: str, source: str) -> None:
    """Load the entries of a state dict under a prefix into a module; every key of the module must fit."""
    own: Dict[str, Any] = {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)}
    check_fit(module, own, source)
    module.load_state_dict(own, strict=False)
