"""A page as one html file: no script, nothing from elsewhere."""
from html import escape
from typing import Callable, Dict, Sequence

from .content import (
    Bars,
    Block,
    Charts,
    Code,
    Listing,
    Page,
    Paragraph,
    Points,
    Section,
    Strong,
    Table,
    Text,
    Tile,
    Tiles,
    pieces,
)
from .style import COLOURS, PAGE
from .svg import bar_svg, chart_svg

#: Nothing is fetched and nothing runs, whatever stands in the texts.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
#: Characters from which on a cell of a table may break into lines.
LONG = 48


def html_of(page: Page) -> str:
    """Return the page as html."""
    links = ''.join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in page.sections)
    return '\n'.join([
        '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f'<title>{escape(page.title)}</title>', f'<style>{COLOURS}{PAGE}</style>', '</head>', '<body>', '<main>',
        '<header>', f'<h1>{escape(page.title)}</h1>', f'<p class="subtitle">{escape(page.subtitle)}</p>',
        *map(block_html, page.lead), f'<nav aria-label="sections">{links}</nav>', '</header>',
        *map(_section, page.sections), '</main>', '</body>', '</html>', ''])


def _section(section: Section) -> str:
    blocks = '\n'.join(map(block_html, section.blocks))
    return f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def inline(text: Text) -> str:
    """Return a text as html."""
    tags = {Code: 'code', Strong: 'strong'}
    return ''.join(f'<{tags[type(piece)]}>{escape(piece)}</{tags[type(piece)]}>' if type(piece) in tags
                   else escape(piece) for piece in pieces(text))


def block_html(block: Block) -> str:
    """Return a part of a page as html."""
    return WRITERS[type(block)](block)


def _paragraph(block: Paragraph) -> str:
    return f'{"<p class=missing>" if block.missing else "<p>"}{inline(block.text)}</p>'


def _points(block: Points) -> str:
    return '<ul>' + ''.join(f'<li>{inline(item)}</li>' for item in block.items) + '</ul>'


def _listing(block: Listing) -> str:
    return f'<pre tabindex="0"><code>{escape(chr(10).join(block.lines))}</code></pre>'


def _folded(rows: Sequence, shown: int, what: str, write: Callable[[Sequence], str]) -> str:
    """Return rows of which those after the first unfold."""
    if len(rows) <= shown + 3:  # so few are not worth a fold
        return write(rows)
    return (f'{write(rows[:shown])}\n<details><summary>{len(rows) - shown} more {what}</summary>\n{write(rows[shown:])}'
            '\n</details>')


def _table(block: Table) -> str:
    def cell(tag: str, number: int, text: Text) -> str:
        left = number in block.left
        long = left and tag == 'td' and sum(map(len, pieces(text))) > LONG
        start = f'<{tag} class="left long">' if long else f'<{tag} class="left">' if left else f'<{tag}>'
        return f'{start}{inline(text)}</{tag}>'

    def line(tag: str, cells: Sequence[Text]) -> str:
        return '<tr>' + ''.join(cell(tag, number, text) for number, text in enumerate(cells)) + '</tr>'

    def whole(rows: Sequence[Sequence[Text]]) -> str:
        body = '\n'.join(line('td', row) for row in rows)
        return (f'<div class="scroll" tabindex="0"><table>\n<thead>{line("th", block.head)}</thead>\n<tbody>\n{body}\n'
                '</tbody></table></div>')

    return _folded(block.rows, block.shown, 'rows', whole)


def _bars(block: Bars) -> str:
    longest = block.full or max((sum(size for _, size in row.parts) for row in block.rows), default=0.0)
    legend = ''.join(f'<span><i class="{kind}"></i>{escape(name)}</span>' for kind, name in block.kinds.items())

    def whole(rows: Sequence) -> str:
        lines = [f'<div class="row"><span class="name" title="{escape(row.full_name or row.name)}">'
                 f'{escape(row.name).replace(".", ".<wbr>")}</span>{bar_svg(row, longest)}'
                 f'<span class="note">{escape(row.note)}</span></div>' for row in rows]
        return '\n'.join(['<div class="bars">', *lines, '</div>'])

    return (f'<div class="legend">{legend}</div>\n' if legend else '') + \
        _folded(block.rows, block.shown, 'rows', whole)


def _charts(block: Charts) -> str:
    figures = [f'<figure><figcaption>{escape(chart.title)}</figcaption>\n{chart_svg(chart)}</figure>'
               for chart in block.charts]
    return '\n'.join([f'<div class="charts{" one" if len(figures) == 1 else ""}">', *figures, '</div>'])


def _tiles(block: Tiles) -> str:
    return '<dl class="tiles">' + ''.join(map(_tile, block.tiles)) + '</dl>'


def _tile(tile: Tile) -> str:
    colour = '' if tile.good is None else ' good' if tile.good else ' bad'
    detail = f'<dd class="detail">{escape(tile.detail)}</dd>' if tile.detail else ''
    return (f'<div class="tile"><dt>{escape(tile.label)}</dt><dd class="value{colour}">{escape(tile.value)}</dd>'
            f'{detail}</div>')


WRITERS: Dict[type, Callable] = {Paragraph: _paragraph, Points: _points, Listing: _listing, Table: _table,
                                 Bars: _bars, Charts: _charts, Tiles: _tiles}
