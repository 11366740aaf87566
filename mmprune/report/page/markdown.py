"""A page as markdown, and its pictures as files."""
import re
from typing import Any, Callable, Dict, List, Sequence

from .content import (
    Bars,
    Block,
    Charts,
    Code,
    Listing,
    Page,
    Paragraph,
    Points,
    Strong,
    Table,
    Text,
    Tiles,
    pieces,
)
from .svg import chart_svg


def markdown_of(page: Page, pictures: str) -> str:
    """Return the page as markdown.

    Args:
        page (Page): The page.
        pictures (str): Folder of the picture files, relative to the markdown file.
    """
    parts = [f'# {inline(page.title)}', inline(page.subtitle), *(block_markdown(one, pictures) for one in page.lead)]
    for section in page.sections:
        parts += [f'## {inline(section.title)}', *(block_markdown(one, pictures) for one in section.blocks)]
    return '\n\n'.join(parts) + '\n'


def pictures_of(page: Page) -> Dict[str, str]:
    """Return file name -> SVG of every chart of the page."""
    blocks = [*page.lead, *(block for section in page.sections for block in section.blocks)]
    return {f'{chart.name}.svg': chart_svg(chart, alone=True) for block in blocks if isinstance(block, Charts)
            for chart in block.charts}


def inline(text: Text) -> str:
    """Return a text as markdown, in one line; nothing in it is taken for markup."""
    return ''.join(map(_piece, pieces(text)))


def _piece(piece: str) -> str:
    line = ' '.join(piece.split('\n'))
    if isinstance(piece, Code):
        return _code(line)
    line = re.sub(r'([\\`*_\[\]|~#])', r'\\\1', line.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;'))
    return f'**{line}**' if isinstance(piece, Strong) else line


def _code(line: str) -> str:
    """Return a piece as it is typed; a bar would end a cell, even here."""
    if not line.strip():
        return ''
    fence = '`' * (1 + max((len(run) for run in re.findall('`+', line)), default=0))
    space = ' ' if '`' in line else ''
    return f'{fence}{space}{line}{space}{fence}'.replace('|', '\\|')


def block_markdown(block: Block, pictures: str) -> str:
    """Return a part of a page as markdown."""
    if isinstance(block, Charts):
        return '\n'.join(f'![{inline(chart.title)}]({pictures}/{chart.name}.svg)' for chart in block.charts)
    return WRITERS[type(block)](block)


def _paragraph(block: Paragraph) -> str:
    return f'{"> " if block.missing else ""}{inline(block.text)}'


def _points(block: Points) -> str:
    return '\n'.join(f'- {inline(item)}' for item in block.items)


def _listing(block: Listing) -> str:
    fence = '`' * max(3, 1 + max((len(run) for line in block.lines for run in re.findall('`+', line)), default=0))
    return '\n'.join([f'{fence}text', *block.lines, fence])


def _rows(head: Sequence[Text], rows: Sequence[Sequence[Text]], left: Sequence[int]) -> str:
    lines: List[Sequence[str]] = [[inline(cell) for cell in row] for row in (head, *rows)]
    rule = ['---' if number in left else '---:' for number in range(len(head))]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (lines[0], rule, *lines[1:]))


def _table(block: Table) -> str:
    return _rows(block.head, block.rows, block.left)


def _bars(block: Bars) -> str:
    return _rows(block.head, [[Code(row.full_name) if row.full_name else row.name, row.note] for row in block.rows],
                 (0, 1))


def _tiles(block: Tiles) -> str:
    return '\n'.join(f'- {inline([Strong(tile.value), f" {tile.label}", f" ({tile.detail})" if tile.detail else ""])}'
                     for tile in block.tiles)


WRITERS: Dict[type, Callable[[Any], str]] = {Paragraph: _paragraph, Points: _points, Listing: _listing, Table: _table,
                                             Bars: _bars, Tiles: _tiles}
