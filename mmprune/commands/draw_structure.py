"""Draw a structure before and after pruning: channels and their share, one row a unit.

mmprune draw-structure work_dirs/prune/fix_subnet.json --out structure.png
python tools/pruning/draw_structure.py work_dirs/prune/fix_subnet.json --out structure.png
"""
from typing import Optional, Sequence

from ..command_line import command_parser
from ..report.figure import picture_format
from ..report.structure_picture import draw_structure
from ..units.structure import read_structure


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('fix_subnet', help='json file of a structure')
    parser.add_argument('--out', required=True, help='the picture, .png or another format of matplotlib')
    parser.add_argument('--title', default='Channels before and after pruning', help='headline')
    args = parser.parse_args(argv)
    picture_format(args.out)
    draw_structure(read_structure(args.fix_subnet), args.out, title=args.title)
    print(f'wrote {args.out}')
