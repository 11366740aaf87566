"""What ``mmprune latency-pack`` does; see :mod:`mmprune.commands.latency_pack`."""
from mmprune.command_line import run
from mmprune.commands.latency_pack import main

if __name__ == '__main__':
    run(main)
