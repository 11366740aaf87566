"""What ``mmprune train`` does; see :mod:`mmprune.commands.train`."""
from mmprune.command_line import run
from mmprune.commands.train import main

if __name__ == '__main__':
    run(main)
