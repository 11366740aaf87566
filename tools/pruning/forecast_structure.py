"""What ``mmprune forecast-structure`` does; see :mod:`mmprune.commands.forecast_structure`."""
from mmprune.command_line import run
from mmprune.commands.forecast_structure import main

if __name__ == '__main__':
    run(main)
