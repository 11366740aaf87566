"""What a whole road from checkpoint to device leaves behind: a plan, and a record of each stage that is done.

``FOLDER/compress.json`` is the plan, ``FOLDER/stages/NAME.json`` the record of a stage. Paths in them are relative to
FOLDER. The stages, in their order, and what ``result`` of each holds (what was not measured is left out):

- ``dense``: ``metrics`` (name -> number, of the config's evaluator), ``images`` (their number)
- ``prune``: ``checkpoint``, ``structure`` (unit -> channels, json), ``config``, ``reached`` (``flops``, ``params``,
  ``latency``: share of the dense model that is left), ``cost`` (``dense`` and ``pruned``, each ``macs`` and
  ``params``), ``log`` (folder of the run with its scalars), ``metrics`` (right after the cut and its repair)
- ``finetune``: ``checkpoint``, ``config``, ``epochs``, ``log``
- ``test``: ``metrics``
- ``deploy``: ``file``, ``dense_file`` (the dense network that was timed), ``pruned_file`` (the pruned one, where
  ``file`` holds more than it, such as decoding and NMS), ``config``, ``difference`` (largest relative one to PyTorch),
  ``times`` (file -> ``median``, ``first_quartile``, ``third_quartile`` in milliseconds and ``threads``; files
  ``dense``, ``pruned``)
- ``int8``: ``file``, ``format`` (``QDQ`` or ``QOperator``), ``left_in_float`` (names of layers), ``times`` (files
  ``dense``, ``pruned``, ``dense_int8``, ``pruned_int8``), ``metrics`` and ``float_metrics`` (of the deployed files)
- ``test-deployed``: ``metrics`` of the deployed float file
"""
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from ..arguments import UserError
from ..files import read_json, write_json

STAGES = ('dense', 'prune', 'finetune', 'test', 'deploy', 'test-deployed', 'int8')
PLAN, FOLDER = 'compress.json', 'stages'
FORMAT = 1


@dataclass
class StageRecord:
    """A stage that is done."""

    stage: str  #: one of :data:`STAGES`
    commands: List[List[str]]  #: what was typed, each a list of words
    seconds: float  #: that they took
    finished: str  #: when, ISO 8601
    result: Dict[str, Any] = field(default_factory=dict)  #: see above


@dataclass
class CompressPlan:
    """What was asked for."""

    config: str  #: of the dense model
    checkpoint: str  #: of the dense model
    target: Dict[str, float]  #: such as ``{'latency': 0.5}``
    metric: str  #: by which the networks are compared, a key of ``metrics``
    input_shape: List[int]  #: ``(1, C, H, W)``
    options: Dict[str, Any]  #: of the command line, as given or by default
    versions: Dict[str, str]  #: package -> version
    machine: str
    format: int = FORMAT


def write_plan(plan: CompressPlan, folder: Path) -> None:
    """Write the plan of a folder."""
    write_json(asdict(plan), folder / PLAN)


def read_plan(folder: Path) -> CompressPlan:
    """Return the plan of a folder.

    Raises:
        UserError: There is none, or it is not what this version of mmprune writes.
    """
    values = read_json(folder / PLAN, 'the plan', f': {str(folder)!r} is no folder of `mmprune compress`')
    return CompressPlan(**_checked(values, CompressPlan, folder / PLAN))


def write_record(record: StageRecord, folder: Path) -> None:
    """Write the record of a stage; it appears whole or not at all."""
    write_json(asdict(record), folder / FOLDER / f'{record.stage}.json')


def read_record(stage: str, folder: Path) -> Optional[StageRecord]:
    """Return the record of a stage, None where it is not done.

    Raises:
        UserError: The file is no record.
    """
    path = folder / FOLDER / f'{stage}.json'
    if not path.exists():
        return None
    return StageRecord(**_checked(read_json(path, f'the record of the stage {stage}'), StageRecord, path))


def read_records(folder: Path) -> Dict[str, StageRecord]:
    """Return the records of the stages that are done, by their names."""
    found = {stage: read_record(stage, folder) for stage in STAGES}
    return {stage: record for stage, record in found.items() if record is not None}


def _checked(values: Any, kind: Any, path: Path) -> Mapping[str, Any]:
    """Return the fields of a dataclass; raise UserError where the json holds others."""
    wanted = set(kind.__dataclass_fields__)
    if not isinstance(values, dict) or set(values) != wanted:
        raise UserError(f'{str(path)!r} does not hold {", ".join(sorted(wanted))}: it was not written by this version '
                        'of mmprune')
    if values.get('format', FORMAT) != FORMAT:
        raise UserError(f'{str(path)!r} has the format {values["format"]}, this version of mmprune reads {FORMAT}')
    return values
