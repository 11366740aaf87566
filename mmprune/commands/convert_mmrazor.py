"""Turn a pruned checkpoint of mmrazor's GroupFisher into one of ours.

mmprune convert-mmrazor PRUNE_CONFIG mmrazor_pruned.pth pruned.pth
python tools/model_converters/from_mmrazor.py PRUNE_CONFIG mmrazor_pruned.pth pruned.pth

mmrazor keeps the pruned network at full size, under ``architecture.*``, with one 0/1 mask a unit under
``mutator.units.{i}.mutable_channel.mask``. PRUNE_CONFIG is our prune config of the same model. Its finetuned
checkpoints and its fix_subnet.json need no conversion.
"""
import re
from typing import Dict, List, Mapping, Optional, Sequence

import numpy as np
from mmengine.registry import init_default_scope
from torch import Tensor

from ..command_line import command_parser
from ..config import plain
from ..group_fisher.algorithm import GroupFisherAlgorithm
from ..models.checkpoint import ARCHITECTURE, CheckpointError, check_exists, load_state, read_state_dict, save_whole
from ..models.from_config import check_model, read_config
from ..registry import MODELS
from ..units.mutator import ChannelMutator

MASK = re.compile(r'mutator\.units\.(\d+)\.mutable_channel\.mask$')


def masks_in_order(state: Mapping[str, Tensor]) -> List[np.ndarray]:
    """Return mmrazor's masks in unit order."""
    found = {int(match.group(1)): key for key in state for match in [MASK.match(key)] if match}
    if not found:
        raise CheckpointError('source: no key mutator.units.{i}.mutable_channel.mask; it is no pruned checkpoint of '
                              'mmrazor')
    return [np.asarray(state[found[i]].reshape(-1) > 0) for i in sorted(found)]


def assign(mutator: ChannelMutator, masks: List[np.ndarray]) -> Dict[str, np.ndarray]:
    """Give mmrazor's masks to our units.

    mmrazor numbers its units in the order of the forward pass, with or without those that it does not prune.

    Returns:
        dict[str, ndarray[classes], bool]: Unit name -> classes that stay.
    """
    prunable = {unit.name: unit for unit in mutator.units}
    order = {axis.tensor: place for place, axis in enumerate(mutator.complexity.graph.axes)}
    everything = sorted([unit.channels for unit in mutator.units] + [c for c in mutator.frozen if c.producers],
                        key=lambda channels: order[channels.producers[0].axis.tensor])
    widths = [len(mask) for mask in masks]
    for candidates in ([unit.channels for unit in mutator.units], everything):
        if [channels.width for channels in candidates] == widths:
            break
    else:
        raise CheckpointError(f'source: its {len(masks)} units have widths {_short(widths)}; the units of the config '
                              f'have {_short([unit.width for unit in mutator.units])}. Is PRUNE_CONFIG of that model?')
    result = {}
    for channels, mask in zip(candidates, masks):
        if channels.name in prunable:
            unit = prunable[channels.name]
            result[channels.name] = unit.mask_of(mask)
            if not np.array_equal(~unit.mask_of(~mask), result[channels.name]):
                raise CheckpointError(f'source: the mask of {channels.name!r} splits channels that a grouped '
                                      'convolution ties')
        elif not mask.all():
            raise CheckpointError(f'source: it prunes {channels.name!r}, which stays here: {channels.reason}')
    return result


def _short(widths: List[int]) -> str:
    return ' '.join(map(str, widths[:6])) + (' ...' if len(widths) > 6 else '')


def convert(algorithm: GroupFisherAlgorithm, state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return our state dict: cut tensors and kept vectors."""
    dense = {key[len(ARCHITECTURE):]: value for key, value in state.items() if key.startswith(ARCHITECTURE)}
    load_state(algorithm.architecture, dense, 'source')
    algorithm.mutator.cut(assign(algorithm.mutator, masks_in_order(state)))
    return dict(algorithm.state_dict())


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='our prune config of the same model')
    parser.add_argument('source', help='pruned checkpoint of mmrazor')
    parser.add_argument('target', help='file to write')
    args = parser.parse_args(argv)
    check_exists(args.source, 'source')
    cfg = read_config(args.config)
    check_model(cfg, args.config)
    state = read_state_dict(args.source, 'source')
    init_default_scope(cfg.default_scope)
    algorithm = MODELS.build(plain(cfg.model))
    if not isinstance(algorithm, GroupFisherAlgorithm):
        parser.error(f'{args.config} is no prune config')
    save_whole(dict(state_dict=convert(algorithm, state)), args.target)
    cost = algorithm.mutator.cost['macs'] / algorithm.mutator.complexity.cost({})['macs']
    print(f'{len(algorithm.mutator.units)} units, {cost:.2%} of the FLOPs; written to {args.target}')
