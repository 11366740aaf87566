"""Turn torchvision's MobileNetV2 weights into a checkpoint of mmcls / mmpretrain.

mmprune convert-torchvision mobilenet_v2-b0353104.pth mobilenet_v2.pth
python tools/model_converters/from_torchvision.py mobilenet_v2-b0353104.pth mobilenet_v2.pth
"""
from typing import Dict, Optional, Sequence

from torch import Tensor

from ..command_line import command_parser
from ..models.checkpoint import CheckpointError, read_state_dict, save_whole

#: Inverted residuals in each of the seven stages; torchvision numbers them in one sequence, mmcls by stage.
STAGES = (1, 2, 3, 4, 3, 3, 1)


def mobilenet_v2_names() -> Dict[str, str]:
    """Return torchvision's prefix of every conv-norm pair or layer -> the prefix in mmcls."""
    names = {'features.0.0': 'backbone.conv1.conv', 'features.0.1': 'backbone.conv1.bn',
             'features.18.0': 'backbone.conv2.conv', 'features.18.1': 'backbone.conv2.bn',
             'classifier.1': 'head.fc'}
    block = 1
    for stage, blocks in enumerate(STAGES, 1):
        for number in range(blocks):
            theirs, ours = f'features.{block}.conv', f'backbone.layer{stage}.{number}.conv'
            pairs = 1 if block == 1 else 2  # the first block does not expand
            for pair in range(pairs):
                names[f'{theirs}.{pair}.0'] = f'{ours}.{pair}.conv'
                names[f'{theirs}.{pair}.1'] = f'{ours}.{pair}.bn'
            names[f'{theirs}.{pairs}'] = f'{ours}.{pairs}.conv'
            names[f'{theirs}.{pairs + 1}'] = f'{ours}.{pairs}.bn'
            block += 1
    return names


def convert(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename every key; every weight of the file is used."""
    names = mobilenet_v2_names()
    converted = {}
    for key, value in state.items():
        prefix, _, leaf = key.rpartition('.')
        if prefix not in names:
            raise CheckpointError(f'{key!r} is no key of torchvision\'s mobilenet_v2')
        converted[f'{names[prefix]}.{leaf}'] = value
    return converted


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('source', help='torchvision checkpoint')
    parser.add_argument('target', help='file to write')
    args = parser.parse_args(argv)
    state = convert(read_state_dict(args.source, 'source'))
    save_whole(dict(state_dict=state), args.target)
    print(f'{len(state)} tensors written to {args.target}')
