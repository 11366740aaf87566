"""Draw a structure before and after pruning: channels and their share, one row a unit.

python tools/pruning/draw_structure.py work_dirs/prune/fix_subnet.json --out structure.png
"""
import argparse

from mmprune.command_line import run
from mmprune.report.structure_picture import draw_structure
from mmprune.units.structure import read_structure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('fix_subnet', help='json file of a structure')
    parser.add_argument('--out', required=True, help='the picture, .png or another format of matplotlib')
    parser.add_argument('--title', default='Channels before and after pruning', help='headline')
    args = parser.parse_args()
    draw_structure(read_structure(args.fix_subnet), args.out, title=args.title)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    run(main)
