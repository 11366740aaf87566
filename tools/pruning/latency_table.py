"""What ``mmprune latency`` does; see :mod:`mmprune.commands.latency`."""
from mmprune.command_line import run
from mmprune.commands.latency import main

if __name__ == '__main__':
    run(main)
