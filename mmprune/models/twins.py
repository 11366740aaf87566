"""A pruned network beside its dense twin, from the config of either and their two checkpoints."""
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from torch import Tensor, nn

from ..graph.detector_inputs import demo_input_of
from ..graph.input_shape import shape_or_test_input
from ..registry import MODELS, build
from ..units.choice import CHOICE
from ..units.copies import own_copy
from ..units.mutator import ChannelMutator
from .architecture import build_architecture, prepare, pretrained_path
from .checkpoint import ARCHITECTURE, KEPT, load_state, read_checkpoint, read_state_dict, state_of
from .checkpoint_file import CheckpointError
from .divisor import widen
from .from_config import dense_config
from .pruned_state import leave_lacking_whole, masks_of, refuse_mmrazor

#: What the checkpoints are called in messages.
PRUNED, DENSE = 'PRUNED', '--dense'


class Twins(NamedTuple):
    """A pruned network and its dense twin, in memory of their own."""

    mutator: ChannelMutator  #: of the pruned network, ``mutator.model``
    dense: nn.Module
    state: Dict[str, Any]  #: the state dict of the pruned checkpoint
    meta: Dict[str, Any]  #: what else it says of the model, such as the categories of the data

    def checkpoint(self) -> Dict[str, Any]:
        """Return the pruned checkpoint with the present weights of the network: of the same keys, without its run."""
        start = ARCHITECTURE if _is_of_a_run(self.state) else ''
        own = {start + key: value.detach().cpu().clone() for key, value in self.mutator.model.state_dict().items()
               if isinstance(value, Tensor)}
        return dict(meta=self.meta, state_dict={key: own.get(key, value) for key, value in self.state.items()})


def read_twins(cfg: Mapping[str, Any], pruned: str, dense: str) -> Twins:
    """Build the dense network of a config twice, load it, and cut one of them to a pruned checkpoint.

    Args:
        cfg (Config): A prune or finetune config, for the checkpoint of a prune run a deploy config too.
        pruned (str): Checkpoint of a prune run, or one that was finetuned, with its finetune config.
        dense (str): Checkpoint that the prune run started from.

    Raises:
        CheckpointError: A checkpoint cannot be read or is of another model; the pruned one, or its config, has no
            structure; the dense one is pruned.
        StructureError: The structure is not one of this model.
    """
    whole, dense_state = read_checkpoint(pruned, PRUNED), read_state_dict(dense, DENSE)
    state = state_of(whole, pruned, PRUNED)
    if _is_of_a_run(dense_state):
        raise CheckpointError(f'{DENSE}: {dense!r} is a checkpoint of a prune run; give that of the dense network, '
                              'from which the run started (pretrained_path of its config)')
    source, structure, divisor = _structure(cfg, pruned, state)
    mutator = _mutator(cfg, structure)
    twin = own_copy(mutator.model)
    load_state(twin, dense_state, f'{DENSE}: {dense!r}')
    masks = masks_of(mutator, structure, f'{source}: the structure')
    assert masks is not None
    leave_lacking_whole(mutator, masks)
    mutator.cut(masks)
    if divisor > 1:
        widen(mutator, divisor)
    load_state(mutator.model, state, f'{PRUNED}: {pruned!r}')
    return Twins(mutator, twin, state, whole.get('meta') or {})


def _is_of_a_run(state: Mapping[str, Any]) -> bool:
    return any(key.startswith(KEPT) for key in state)


def _structure(cfg: Mapping[str, Any], path: str, state: Mapping[str, Any]) -> Tuple[str, Mapping[str, Any], int]:
    """Return where the structure of a checkpoint is, the state dict with it, and the divisor it was widened by."""
    refuse_mmrazor(state, path, PRUNED)
    if _is_of_a_run(state):
        return path, state, 1
    model = cfg['model'].get('student') or cfg['model']
    base: Optional[str] = pretrained_path((model.get('algorithm') or {}).get('init_cfg'))
    if base is None:
        raise CheckpointError(f'{PRUNED}: {path!r} holds no pruned structure, which says what channels stay; give a '
                              'checkpoint of a prune run, such as flops_0.50.pth, or for a finetuned one its finetune '
                              'config, which names that of the prune run')
    kept = read_state_dict(base, 'pruned_path')
    refuse_mmrazor(kept, base, 'pruned_path')
    if not _is_of_a_run(kept):
        raise CheckpointError(f'pruned_path: {base!r} holds no pruned structure; it must be a checkpoint of a prune '
                              'run, such as flops_0.50.pth')
    return base, kept, model.get('divisor', 1)


def _mutator(cfg: Mapping[str, Any], structure: Mapping[str, Any]) -> ChannelMutator:
    """Return a mutator, which records nothing, on the dense network of a config with random weights."""
    architecture, given, _ = dense_config(cfg)
    given = given or {}
    linear = bool((given.get('channel_unit_cfg') or {}).get('mutate_linear', False))
    demo_input = given.get('demo_input') or demo_input_of(architecture,
                                                          shape_or_test_input(cfg.get('input_shape'), cfg))
    mutator: ChannelMutator = build(MODELS, dict(
        type='mmprune.ChannelMutator', channel_unit_cfg=dict(type='mmprune.ChannelUnit', mutate_linear=linear),
        demo_input=demo_input, **{key: given[key] for key in CHOICE if given.get(key) is not None}))
    model, _ = build_architecture(architecture, None)
    prepare(mutator, model, [key[len(KEPT):] for key in structure if key.startswith(KEPT)])
    return mutator
