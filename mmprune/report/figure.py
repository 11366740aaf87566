"""What the pictures share: short names of units, and figures and files by matplotlib, an optional dependency."""
import os
import re
from pathlib import Path
from typing import Any, List, Sequence, Union

from ..arguments import MissingPackageError, UserError
from ..files import whole_file

#: ``{first producer}_({start}, {end})_{channels}``, with ``#2`` at its end where units interleave
UNIT_NAME = re.compile(r'(?P<layer>.*)_\((?P<start>\d+), (?P<end>\d+)\)_(?P<channels>\d+)(?P<suffix>#\w+(#\d+)?)?')
INK, QUIET = '#1f2933', '#66727f'


class PictureError(UserError):
    """The suffix of a picture's file names no format that matplotlib writes."""


def picture_format(path: Union[str, 'os.PathLike[str]']) -> str:
    """Return the format that the suffix of a picture names.

    Raises:
        MissingPackageError: matplotlib is not installed.
        PictureError: matplotlib writes no such format.
    """
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    suffix = Path(path).suffix[1:].lower()
    if suffix not in known:
        raise PictureError(f'the suffix of {os.fspath(path)!r} tells no format of a picture; these do: .'
                           + ', .'.join(sorted(known)))
    return suffix


def new_figure(width: float, height: float) -> Any:
    """Return an empty white figure that needs no screen, of a width and height in inches.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # an optional dependency
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError('matplotlib is not installed: pip install matplotlib') from error
    figure = Figure(figsize=(width, height), dpi=130, facecolor='white')
    FigureCanvasAgg(figure)
    return figure


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a text in points, without blanks at its ends; its font size is in points."""
    from matplotlib.font_manager import FontProperties  # an optional dependency
    from matplotlib.textpath import TextPath

    font = FontProperties(weight='bold' if bold else 'normal')
    return float(TextPath((0, 0), text, size, prop=font).get_extents().x1) if text.strip() else 0.0


def save_figure(figure: Any, path: Union[str, 'os.PathLike[str]']) -> None:
    """Write a figure to a file in the format of its suffix; the same figure gives the same file.

    Raises:
        PictureError: matplotlib writes no such format.
    """
    from matplotlib import rc_context  # an optional dependency

    suffix = picture_format(path)
    with whole_file(path) as temporary, rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'mmprune'}):
        figure.savefig(temporary, format=suffix, metadata={'Date': None} if suffix == 'svg' else None)


def row_labels(names: Sequence[str]) -> List[str]:
    """Return short names of units: the first layer without the modules that all share; channels if units share it."""
    matches = [UNIT_NAME.fullmatch(name) for name in names]
    layers = [match['layer'] if match else name for name, match in zip(names, matches)]
    parts = [layer.split('.') for layer in layers]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    labels = []
    for layer, part, match in zip(layers, parts, matches):
        several = match and layers.count(layer) > 1
        extra = f' {match["start"]}-{int(match["end"]) - 1}{match["suffix"] or ""}' if match and several else ''
        labels.append('.'.join(part[shared:]) + extra)
    return labels
