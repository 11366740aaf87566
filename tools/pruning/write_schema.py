"""What ``mmprune slimming-schema`` does; see :mod:`mmprune.commands.slimming_schema`."""
from mmprune.command_line import run
from mmprune.commands.slimming_schema import main

if __name__ == '__main__':
    run(main)
