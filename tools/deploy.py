"""What ``mmprune deploy`` does; see :mod:`mmprune.commands.deploy`."""
from mmprune.command_line import run
from mmprune.commands.deploy import main

if __name__ == '__main__':
    run(main)
