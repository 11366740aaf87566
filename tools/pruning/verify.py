"""What ``mmprune verify`` does; see :mod:`mmprune.commands.verify`."""
from mmprune.command_line import run
from mmprune.commands.verify import main

if __name__ == '__main__':
    run(main)
