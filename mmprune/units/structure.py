"""A structure, as in ``fix_subnet.json``: unit name -> channels that stay, byte-compatible with mmrazor's files."""
import os
from contextlib import contextmanager
from typing import Any, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from mmengine.logging import print_log

from ..arguments import UserError, nearest
from ..files import read_json, write_json

Structure = Dict[str, int]


class StructureError(UserError):
    """A structure does not fit the model, or is not a structure."""


def read_structure(source: Union[Mapping[str, Any], str, 'os.PathLike[str]']) -> Dict[str, Any]:
    """Return a structure from a dict or the path of a json file; its contents are not checked yet.

    Raises:
        StructureError: The file is missing or is not a json object.
    """
    if isinstance(source, Mapping):
        other = [name for name in source if not isinstance(name, str)]
        if other:
            raise StructureError(f'fix_subnet: {other[0]!r} is not the name of a unit')
        return dict(source)
    if not isinstance(source, (str, os.PathLike)):
        raise StructureError(f'fix_subnet is a {type(source).__name__}; it must be a dict {{"unit name": channels}} or '
                             'the path of a json file')
    content = read_json(source, 'fix_subnet', '. A prune run writes fix_subnet.json into its work dir', StructureError)
    if not isinstance(content, dict):
        raise StructureError(f'fix_subnet: {os.fspath(source)!r} holds a {type(content).__name__}, not an object '
                             '{"unit name": channels}')
    return content


@contextmanager
def blamed_on(source: Any) -> Iterator[None]:
    """Name the file of a structure in the StructureErrors of a block; a structure that is a dict has none."""
    try:
        yield
    except StructureError as error:
        if not isinstance(source, (str, os.PathLike)) or repr(os.fspath(source)) in str(error):
            raise
        raise StructureError(f'{os.fspath(source)!r}: {error}') from None


def check_structure(structure: Mapping[str, Any], units: Sequence[Any], source: str = 'fix_subnet',
                    frozen: Optional[Mapping[str, Optional[str]]] = None, removable: Collection[str] = ()) -> None:
    """Check a structure against the units of a model; units that it lacks stay whole, which is said in one line.

    Args:
        structure (dict): Unit name -> channels of the first producer that stay.
        units (list[ChannelUnit]): The units that may be pruned.
        source (str): Where the structure comes from, for the messages.
        frozen (dict[str, str], optional): Name -> reason of the frozen channels.
        removable (collection[str]): Units that may have 0 channels, since their block can be removed.

    Raises:
        StructureError: It names no unit, a name is unknown, or a count is not possible; all problems are listed.
    """
    problems, by_name = [], {unit.name: unit for unit in units}
    for name, count in structure.items():
        unit = by_name.get(name)
        if unit is None and name in (frozen or {}):
            problems.append(f'{name!r} is not pruned in this model: {(frozen or {})[name]}')
        elif unit is None:
            problems.append(f'unknown unit {name!r}{nearest(name, list(by_name))}')
        elif isinstance(count, bool) or not isinstance(count, int):
            problems.append(f'{name!r}: {count!r} is not a whole number of channels')
        elif not (name not in removable) <= count <= unit.width:
            problems.append(f'{name!r}: {count} channels; the unit has {unit.width}, so 1 to {unit.width} can stay')
        elif count % unit.multiplicity:
            problems.append(f'{name!r}: {count} channels; they are tied in sets of {unit.multiplicity}, so the count '
                            'must be a multiple of that')
    missing = [name for name in by_name if name not in structure]
    if missing and len(missing) == len(by_name) and not problems:
        problems.append(f'it names none of the {len(missing)} units, such as {missing[0]!r}')
    elif problems:
        problems += [f'unit {name!r} is missing' for name in missing]
    if problems:
        problems[10:] = [f'... and {len(problems) - 10} more'] if len(problems) > 10 else []
        raise StructureError('\n  '.join([f'{source} does not fit this model:', *problems]))
    if missing:  # an earlier version, or an option, did not prune them
        names = ', '.join([*map(repr, missing[:3]), *([f'and {len(missing) - 3} more'] if len(missing) > 3 else [])])
        print_log(f'{source} says nothing of {len(missing)} of {len(by_name)} units, which stay whole: {names}',
                  logger='current')


def relocation(structure: Iterable[str], names: Sequence[str]) -> Tuple[str, str]:
    """Find the prefix of a pruned part's unit names in another model.

    Args:
        structure (iterable[str]): Unit names in the model that was pruned, such as ``backbone.conv1_(0, 64)_64``.
        names (list[str]): Unit names in the other model, such as ``detector.backbone.conv1_(0, 64)_64``.

    Returns:
        tuple[str, str]: Old and new prefix, such as ``('', 'detector.')``; two empty strings if the models share a unit
        name, or the structure fits nowhere.

    Raises:
        StructureError: The structure fits in several places.
    """
    wanted = list(structure)
    if not wanted or set(wanted) & set(names):
        return '', ''
    shared = os.path.commonprefix([name.split('_(')[0].split('.')[:-1] for name in wanted])
    for count in range(len(shared) + 1):
        old = ''.join(part + '.' for part in shared[:count])
        tail = wanted[0][len(old):]
        starts = [name[:-len(tail)] for name in names if name.endswith(tail) and name[:-len(tail)][-1:] in ('', '.')]
        places = [new for new in starts if all(new + name[len(old):] in names for name in wanted)]
        if len(places) > 1:
            raise StructureError(f'fix_subnet fits in several places of this model: {", ".join(map(repr, places))}; '
                                 'name one of them with include')
        if places:
            return old, places[0]
    return '', ''


def relocate(structure: Mapping[str, Any], names: Sequence[str]) -> Dict[str, Any]:
    """Return a structure with the unit names of another model; see :func:`relocation`."""
    old, new = relocation(structure, names)
    return {new + name[len(old):]: count for name, count in structure.items()}


def write_structure(structure: Mapping[str, Any], path: Union[str, 'os.PathLike[str]']) -> None:
    """Write a structure as json, atomically."""
    write_json(dict(structure), path, indent=4)


def format_structure(structure: Mapping[str, Union[int, List[int]]], widths: Mapping[str, int],
                     title: Optional[str] = None) -> str:
    """Return a table of kept and original channels, a unit a line."""
    length = max((len(name) for name in structure), default=0)
    lines = [title] if title else []
    for name, value in structure.items():
        count = len(value) if isinstance(value, list) else value
        bar = '#' * round(20 * count / widths[name])
        lines.append(f'  {name:<{length}}  {count:>5}/{widths[name]:<5} {bar}')
    return '\n'.join(lines)
