"""The parts of a page, without a word on how they look."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple, Union


class Code(str):
    """A piece of text as it is typed: a name, a path."""


class Strong(str):
    """A piece of text that stands out."""


#: A text, or pieces of one, some of them :class:`Code` or :class:`Strong`.
Text = Union[str, Sequence[str]]


def pieces(text: Text) -> Sequence[str]:
    """Return the pieces of a text."""
    return (text,) if isinstance(text, str) else text


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; ``missing`` marks one that says what is not there."""

    text: Text
    missing: bool = False


@dataclass(frozen=True)
class Points:
    """A list of points."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Listing:
    """What is typed, line by line."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head (list[str]): Names of the columns.
        rows (list): Cells, as many in a row as there are columns.
        left (list[int]): Columns that are text; the others are numbers, on the right.
        shown (int): Rows that are seen at once; the rest unfolds.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Text]]
    left: Sequence[int] = (0,)
    shown: int = 40


@dataclass(frozen=True)
class Bar:
    """A row of bars: its name, parts one behind the other as (kind, size), and what stands at its end."""

    name: str
    parts: Sequence[Tuple[str, float]]
    note: str
    full_name: str = ''


@dataclass(frozen=True)
class Bars:
    """Bars below one another, on one scale.

    Attributes:
        rows (list[Bar]): From top to bottom.
        kinds (dict[str, str]): Kind of a part -> its name in the legend.
        head (tuple[str, str]): What the names and the notes are, where they stand in a table.
        full (float): Size that fills the width; 0 for that of the longest.
        shown (int): Rows that are seen at once; the rest unfolds.
    """

    rows: Sequence[Bar]
    kinds: Dict[str, str]
    head: Tuple[str, str]
    full: float = 0.0
    shown: int = 40


@dataclass(frozen=True)
class Series:
    """Points of a chart: (x, y), joined by a line or each with its own label."""

    kind: str
    points: Sequence[Tuple[float, float]]
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A chart of numbers over numbers.

    Attributes:
        name (str): Of its file, without a suffix.
        title (str): What is shown.
        x (str): What goes to the right, with its unit.
        series (list[Series]): Lines, or single points where they have labels.
        up_from_zero (bool): The vertical axis begins at 0; the horizontal one always does.
        mark (float, optional): A height that is drawn as a line of its own: what was asked.
    """

    name: str
    title: str
    x: str
    series: Sequence[Series]
    up_from_zero: bool = False
    mark: Optional[float] = None


@dataclass(frozen=True)
class Charts:
    """Charts beside one another where there is room."""

    charts: Sequence[Chart]


@dataclass(frozen=True)
class Tile:
    """A number that is to be seen first."""

    label: str
    value: str
    detail: str = ''
    good: Optional[bool] = None


@dataclass(frozen=True)
class Tiles:
    """Numbers that are to be seen first."""

    tiles: Sequence[Tile]


Block = Union[Paragraph, Points, Listing, Table, Bars, Charts, Tiles]


@dataclass
class Section:
    """A part of the page with a headline; ``name`` is what links to it say."""

    name: str
    title: str
    blocks: List[Block] = field(default_factory=list)


@dataclass
class Page:
    """The whole page: headline, a line below it, blocks before the first section, sections."""

    title: str
    subtitle: str
    lead: List[Block]
    sections: List[Section]
