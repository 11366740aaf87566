"""What ``mmprune cost`` does; see :mod:`mmprune.commands.cost`."""
from mmprune.command_line import run
from mmprune.commands.cost import main

if __name__ == '__main__':
    run(main)
