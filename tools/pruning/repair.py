"""What ``mmprune repair`` does; see :mod:`mmprune.commands.repair`."""
from mmprune.command_line import run
from mmprune.commands.repair import main

if __name__ == '__main__':
    run(main)
