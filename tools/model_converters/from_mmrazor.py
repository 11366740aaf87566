"""What ``mmprune convert-mmrazor`` does; see :mod:`mmprune.commands.convert_mmrazor`."""
from mmprune.command_line import run
from mmprune.commands.convert_mmrazor import main

if __name__ == '__main__':
    run(main)
