"""What is known of a folder of ``mmprune compress``: its plan, the records of its stages, and where its files are."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from ...arguments import UserError
from ...files import read_json
from ..stage_record import STAGES, CompressPlan, StageRecord, read_plan, read_records
from .number import number

#: Stage -> what it does, in a few words.
WHAT = {'dense': 'test of the dense network', 'prune': 'pruning', 'finetune': 'finetuning',
        'test': 'test of the pruned network', 'deploy': 'export, parity and times', 'test-deployed': 'test of the '
        'exported file', 'int8': 'INT8'}


@dataclass
class Road:
    """A folder that is read.

    Attributes:
        folder (Path): Where its files are.
        plan (CompressPlan): What was asked.
        records (dict[str, StageRecord]): Stages that are done.
    """

    folder: Path
    plan: CompressPlan
    records: Dict[str, StageRecord]

    @property
    def missing(self) -> List[str]:
        """The stages that were asked for and are not done, in their order."""
        options = self.plan.options
        unasked = {'int8'} if options.get('int8') is False else set()
        if number(options.get('finetune')) == 0:
            unasked |= {'finetune', 'test'}
        return [stage for stage in STAGES if stage not in self.records and stage not in unasked]

    @property
    def metric_name(self) -> str:
        """By which networks are compared; it is not known before the dense one is tested."""
        return self.plan.metric or 'accuracy'

    def get(self, stage: str, *keys: str) -> Any:
        """Return a value of a stage's result, through one key after the other; None where there is none."""
        record = self.records.get(stage)
        value: Any = None if record is None else record.result
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, stage: str, *keys: str) -> Optional[float]:
        """Return a number of a stage's result."""
        return number(self.get(stage, *keys))

    def metric(self, stage: str, field: str = 'metrics') -> Optional[float]:
        """Return the metric by which networks are compared, as a stage measured it."""
        return self.number(stage, field, self.plan.metric)

    def mapping(self, stage: str, *keys: str) -> Dict[str, Any]:
        """Return a part of a stage's result; empty where there is none."""
        value = self.get(stage, *keys)
        return dict(value) if isinstance(value, Mapping) else {}

    def path(self, stage: str, key: str) -> Optional[Path]:
        """Return where a file that a stage names should be; None where it names none."""
        name = self.get(stage, key)
        return self.folder / name if isinstance(name, str) and name else None

    def kept(self, name: str) -> Dict[str, Any]:
        """Return what an earlier report has kept in a json file; nothing where it is missing or damaged."""
        try:
            found = read_json(self.folder / name, 'what is kept')
        except UserError:
            return {}
        return found if isinstance(found, dict) else {}

    def told(self, message: str) -> str:
        """Return a message without the folder in its paths, in one line: it is the same wherever the folder lies."""
        return ' '.join(message.replace(f'{self.folder}/', '').split())

    @property
    def config(self) -> str:
        """A config of the model: that of the prune run, else that of the dense model in the folder or as it was typed.

        What a prune config excludes stays, and is told with its reason.
        """
        prune, dense = self.path('prune', 'config'), self.folder / self.plan.config
        for path in (prune, dense):
            if path is not None and path.is_file():
                return str(path)
        return self.plan.config


def read_road(folder: Path) -> Road:
    """Read a folder.

    Raises:
        UserError: It has no plan, or a file in it is none of this version.
    """
    return Road(folder, read_plan(folder), read_records(folder))
