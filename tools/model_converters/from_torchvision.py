"""What ``mmprune convert-torchvision`` does; see :mod:`mmprune.commands.convert_torchvision`."""
from mmprune.command_line import run
from mmprune.commands.convert_torchvision import main

if __name__ == '__main__':
    run(main)
