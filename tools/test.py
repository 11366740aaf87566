"""What ``mmprune test`` does; see :mod:`mmprune.commands.test`."""
from mmprune.command_line import run
from mmprune.commands.test import main

if __name__ == '__main__':
    run(main)
