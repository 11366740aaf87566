"""What a pruned model says of itself: the cuts that lead from the dense network of its code to it, as plain values.

A record fits into a json file, such as the config of another codebase, and cuts a fresh dense model by itself.
"""
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from ..arguments import UserError, short
from ..files import read_json
from ..graph.demo_input import ExampleInputs
from ..graph.nested import output_tensors
from ..models.checkpoint_file import CheckpointError
from ..models.pruning_algorithm import PruningAlgorithm
from ..pruning.pruner import Pruner
from ..pruning.structure_file import apply_structure
from ..units.choice import Choice
from ..units.equivalence import relative_difference
from ..units.modes import in_eval
from ..units.structure import StructureError, read_structure, write_structure
from ..version import __version__

Record = Dict[str, Any]
Folder = Union[str, 'os.PathLike[str]']
#: What holds the units of a model that it has cut.
Source = Union[Pruner, PruningAlgorithm]
#: Under which name a config holds the record.
KEY = 'mmprune'
#: What a cut consists of.
CUT = ('structure', 'inputs', 'choice', 'mutate_linear')
STRUCTURE_FILE = 'fix_subnet.json'
#: Tensors of floats with more numbers are written down by their shape only, and drawn anew.
MOST_NUMBERS = 4096
#: How far outputs may differ, relative to the largest, between a model and what is loaded from its folder: sums may be
#: formed in another order, and constants that are no weights are of float32 in a fresh model.
LIMIT, LIMIT_OF_HALF = 1e-4, 0.05


def new_record(source: Source, former: Optional[Mapping[str, Any]] = None) -> Record:
    """Return the record of a model that a Pruner, or a prune run, has cut.

    Args:
        source (Pruner or PruningAlgorithm): After its cut.
        former (dict, optional): The record that the model has from an earlier cut.

    Raises:
        UserError: The model is masked only, or the inputs that it was traced with cannot be written down.
    """
    if isinstance(source, Pruner) and source.is_masked:
        raise StructureError('the model is masked, its structure is the one before: call cut() first')
    mutator = source.mutator
    choice = {key: getattr(mutator.choice, key) for key in ('include', 'exclude') if getattr(mutator.choice, key)}
    plain = Choice()
    choice.update({key: getattr(mutator.choice, key) for key in ('attention', 'stream')
                   if getattr(mutator.choice, key) != getattr(plain, key)})
    cut = dict(structure=mutator.portable_structure, inputs=[encoded(one) for one in _inputs(mutator.demo_input)],
               choice=choice, mutate_linear=bool(mutator.channel_unit_cfg.get('mutate_linear', False)))
    cuts = list((former or {}).get('cuts', ()))
    if cuts and set(cuts[-1]['structure']) == set(mutator.structure):  # the same units, cut further
        cuts.pop()
    return dict(version=__version__, cuts=[*cuts, cut])


def _inputs(demo: Any) -> List[Any]:
    """Return what a model was called with, once or several times."""
    if hasattr(demo, 'examples'):
        return [value for one in demo.examples for value in _inputs(one)]
    if hasattr(demo, 'inputs'):
        return [demo.inputs]
    if not hasattr(demo, 'tensor') or demo.arguments:
        raise UserError(f'the model was traced by a {type(demo).__name__}, which no file can hold; give the Pruner '
                        'tensors as example_inputs')
    return [torch.zeros(demo.input_shape)]


def encoded(value: Any) -> Any:
    """Return the inputs of a model as json takes them; of large tensors of floats the shape only."""
    if isinstance(value, Tensor):
        held = dict(shape=list(value.shape), dtype=str(value.dtype).partition('.')[2])
        is_large = value.is_floating_point() and value.numel() > MOST_NUMBERS
        return held if is_large else {**held, 'values': value.tolist()}
    if isinstance(value, Mapping):
        return dict(named={str(key): encoded(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return dict(several=[encoded(item) for item in value])
    if value is None or isinstance(value, (bool, int, float, str)):
        return dict(value=value)
    raise UserError(f'example_inputs holds {short(value)}, which no file can hold: tensors, numbers and texts can be')


def decoded(value: Mapping[str, Any]) -> Any:
    """Return what :func:`encoded` was given; numbers that it left out are drawn, the same ones at each call."""
    if 'named' in value:
        return {key: decoded(item) for key, item in value['named'].items()}
    if 'several' in value:
        return tuple(decoded(item) for item in value['several'])
    if 'shape' not in value:
        return value['value']
    dtype = getattr(torch, value['dtype'])
    if 'values' in value:
        return torch.tensor(value['values'], dtype=dtype).reshape(value['shape'])
    return torch.randn(value['shape'], generator=torch.Generator().manual_seed(0)).to(dtype)


def inputs_of(record: Mapping[str, Any]) -> List[Any]:
    """Return what the model of a record is called with, as ``example_inputs`` of a Pruner that is a list of calls."""
    return [one if isinstance(one, (tuple, Mapping)) else (one, )
            for one in map(decoded, record['cuts'][-1]['inputs'])]


def rebuild(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Cut a fresh dense model as its record says, and return it, ready to load the weights.

    Raises:
        StructureError: The record is of another model.
    """
    for cut in record['cuts']:
        calls = inputs_of(dict(cuts=[cut]))
        apply_structure(model, calls, cut['structure'], cut['choice'], cut['mutate_linear'])
    return model


def check_record(record: Any, source: str) -> Record:
    """Return what a config holds as the record of a model.

    Args:
        record (Any): The value.
        source (str): Where it comes from, for the message.

    Raises:
        StructureError: It is no record.
    """
    if record is None:
        raise StructureError(f'{source} says nothing of a pruned model: it has no {KEY!r}, which save_pruned writes')
    cuts = record.get('cuts') if isinstance(record, Mapping) else None
    if not isinstance(cuts, list) or not cuts or not all(
            isinstance(cut, Mapping) and set(cut) >= set(CUT) and isinstance(cut['structure'], Mapping)
            and isinstance(cut['inputs'], list) for cut in cuts):
        raise StructureError(f'{source}: {KEY!r} is {short(record)}; it must have cuts, each with {", ".join(CUT)}')
    return dict(record)


def read_record(folder: Union[str, 'os.PathLike[str]']) -> Record:
    """Return the record in the ``config.json`` of a folder that ``save_pruned`` wrote.

    Raises:
        StructureError: There is none, or ``fix_subnet.json`` beside it says something else.
    """
    path = Path(folder) / 'config.json'
    config = read_json(path, 'folder', '; it must be one that save_pruned wrote', StructureError)
    record = check_record(config.get(KEY) if isinstance(config, Mapping) else None, repr(str(path)))
    beside = Path(folder) / STRUCTURE_FILE
    if beside.is_file() and read_structure(beside) != record['cuts'][-1]['structure']:
        raise StructureError(f'{str(beside)!r} is not the structure in config.json, whose weights lie here; delete it, '
                             'or save the model again')
    return record


@contextmanager
def whole_folder(folder: Union[str, 'os.PathLike[str]']) -> Iterator[Path]:
    """Yield an empty folder in a folder, whose files move into that when the block succeeds, ``config.json`` last."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target, prefix='.') as name:
        yield Path(name)
        for file in sorted(Path(name).iterdir(), key=lambda path: path.name == 'config.json'):
            os.replace(file, target / file.name)


def write_beside(record: Mapping[str, Any], folder: Path) -> None:
    """Write ``fix_subnet.json``, the structure of the last cut, as mmprune's own commands read it."""
    write_structure(record['cuts'][-1]['structure'], folder / STRUCTURE_FILE)


def check_same(model: nn.Module, loaded: nn.Module, calls: Sequence[Any]) -> None:
    """Check that what was loaded from a folder is the model that was saved.

    Args:
        model (nn.Module): What was saved.
        loaded (nn.Module): What its folder gives.
        calls (list[tuple or dict]): What to call both with.

    Raises:
        CheckpointError: Outputs differ; the message says what to do.
    """
    is_half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    with in_eval(model, loaded):
        for call in calls:
            outputs = [output_tensors(ExampleInputs(call)(one)) for one in (model, loaded)]
            difference = relative_difference(*[[tensor.double().cpu() for tensor in some] for some in outputs])
            if not difference <= (LIMIT_OF_HALF if is_half else LIMIT):
                raise CheckpointError(
                    f'what is loaded from the folder differs from the model by {difference:.1e} of the largest output: '
                    f'{type(model).__name__} was changed after it was built, in a way that its config does not say')
