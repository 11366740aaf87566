"""The page of equal_time.py."""
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'equal_time.md'


def document(folder: Path) -> str:
    return ''
