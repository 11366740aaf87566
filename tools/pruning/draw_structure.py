"""What ``mmprune draw-structure`` does; see :mod:`mmprune.commands.draw_structure`."""
from mmprune.command_line import run
from mmprune.commands.draw_structure import main

if __name__ == '__main__':
    run(main)
