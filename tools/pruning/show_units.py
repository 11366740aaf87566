"""What ``mmprune units`` does; see :mod:`mmprune.commands.units`."""
from mmprune.command_line import run
from mmprune.commands.units import main

if __name__ == '__main__':
    run(main)
