"""What ``mmprune divisor`` does; see :mod:`mmprune.commands.divisor`."""
from mmprune.command_line import run
from mmprune.commands.divisor import main

if __name__ == '__main__':
    run(main)
