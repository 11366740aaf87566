"""What ``mmprune compress`` does; see :mod:`mmprune.commands.compress`."""
from mmprune.command_line import run
from mmprune.commands.compress import main

if __name__ == '__main__':
    run(main)
