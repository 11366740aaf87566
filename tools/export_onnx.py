"""What ``mmprune export`` does; see :mod:`mmprune.commands.export`."""
from mmprune.command_line import run
from mmprune.commands.export import main

if __name__ == '__main__':
    run(main)
