"""What ``mmprune report`` does; see :mod:`mmprune.commands.report`."""
from mmprune.command_line import run
from mmprune.commands.report import main

if __name__ == '__main__':
    run(main)
