"""What ``mmprune test-deployed`` does; see :mod:`mmprune.commands.test_deployed`."""
from mmprune.command_line import run
from mmprune.commands.test_deployed import main

if __name__ == '__main__':
    run(main)
