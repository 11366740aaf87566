"""Turn a pruned checkpoint of mmrazor's GroupFisher into one of ours.

mmprune convert-mmrazor PRUNE_CONFIG mmrazor_pruned.pth pruned.pth
python tools/model_converters/from_mmrazor.py PRUNE_CONFIG mmrazor_pruned.pth pruned.pth

mmrazor keeps the pruned network at full size, under ``architecture.*``, with one 0/1 mask a unit under
``mutator.units.{i}.mutable_channel.mask``, of units that it never prunes too. PRUNE_CONFIG is our prune config of the
same model. Its finetuned checkpoints and its fix_subnet.json need no conversion.
"""
from typing import Dict, Mapping, Optional, Sequence

from mmengine.registry import init_default_scope
from torch import Tensor

from ..command_line import command_parser
from ..config import plain
from ..group_fisher.algorithm import GroupFisherAlgorithm
from ..models.checkpoint import ARCHITECTURE, check_exists, load_state, read_state_dict, save_whole
from ..models.from_config import check_model, read_config
from ..models.mmrazor_masks import assign, masks_in_order, report
from ..registry import MODELS


def convert(algorithm: GroupFisherAlgorithm, state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return our state dict: cut tensors and kept vectors."""
    masks = masks_in_order(state)
    dense = {key[len(ARCHITECTURE):]: value for key, value in state.items() if key.startswith(ARCHITECTURE)}
    load_state(algorithm.architecture, dense, 'source')
    algorithm.mutator.cut(assign(algorithm.mutator, masks))
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
    mutator = algorithm.mutator
    cost = mutator.cost['macs'] / mutator.complexity.cost({})['macs']
    print(report(mutator, masks_in_order(state)))
    print(f'{len(mutator.units)} units, {cost:.2%} of the FLOPs; written to {args.target}')
