"""``python -m mmprune`` is the console command ``mmprune``."""
from .commands import main

if __name__ == '__main__':
    main()
