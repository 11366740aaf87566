"""Where the tests find things, however deep they lie."""
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
CONFIGS = ROOT / 'configs'
#: Config of a small classifier of digits.
TINY = TESTS / 'configs' / 'tiny_digits.py'
