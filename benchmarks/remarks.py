"""Remarks below the tables of a page, written by hand: they stay where the tables are written anew."""
from pathlib import Path

#: What stands below the tables starts with this line.
REMARKS = '\n## What it says\n'


def with_remarks(tables: str, page: Path) -> str:
    """Return a page's new tables, with the remarks that stand in its file."""
    remarks = page.read_text(encoding='utf-8').partition(REMARKS)[2] if page.exists() else ''
    return tables + (REMARKS + remarks if remarks else '')
