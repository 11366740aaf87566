"""Run the stages of a road one after the other; what is done is not done again, what was interrupted goes on."""
import datetime
import fcntl
import os
import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

from ...arguments import UserError
from ...report.stage_record import StageRecord, read_record, write_record
from ..processes import die_with_parent
from .stages import Command, Stage

#: Lines of a log that are shown where a command fails.
TAIL = 15
LOCK = '.lock'


class Road:
    """Runs stages in a folder.

    Args:
        folder (Path): Where the records, the logs and the outputs of the stages are.
        say (callable): Shows a line to the user.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process works in the folder; processes that this one starts count as it does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(str(self.folder / LOCK), os.O_CREAT | os.O_RDWR)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.say(f'another process is at work in {self.folder}; waiting for it')
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(self._lock)

    def run(self, stage: Stage, summary: Callable[[StageRecord], str], place: str) -> StageRecord:
        """Return the record of a stage, after it has run unless it had before.

        Args:
            stage (Stage): The stage.
            summary (callable): Says in a few words what a record holds.
            place (str): Such as ``2/7``.

        Raises:
            UserError: One of its commands failed; the message has the end of its log.
        """
        record = read_record(stage.name, self.folder)
        if record is not None:
            self.say(f'[{place}] {stage.name}: done before. {summary(record)}')
            return record
        stage.prepare()
        self.say(f'[{place}] {stage.name}: {stage.what} (log: {self.log(stage.name)}) ...')
        began, commands = time.monotonic(), []
        for command in stage.commands():
            self.command(command, stage.name)
            commands.append(['mmprune', *command])
        record = StageRecord(stage.name, commands, round(time.monotonic() - began, 1),
                             datetime.datetime.now().isoformat(timespec='seconds'), stage.result())
        write_record(record, self.folder)
        self.say(f'[{place}] {stage.name}: {record.seconds:.0f} s. {summary(record)}')
        return record

    def log(self, stage: str) -> Path:
        """Return the log of a stage."""
        return self.folder / 'logs' / f'{stage}.log'

    def command(self, command: Command, stage: str) -> None:
        """Run one command; its output goes to the log of its stage."""
        log = self.log(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open('a', encoding='utf-8') as sink:
            sink.write(f'$ mmprune {shlex.join(command)}\n')
            sink.flush()
            status = subprocess.call(
                [sys.executable, '-m', 'mmprune', *command], stdout=sink, stderr=subprocess.STDOUT,
                pass_fds=(self._lock,), preexec_fn=partial(die_with_parent, os.getpid()))
        if status:
            lines = log.read_text(encoding='utf-8', errors='replace').splitlines()[-TAIL:]
            raise UserError('\n'.join([f'the stage {stage} failed with status {status}; the end of {log}:',
                                       *(f'  | {line}' for line in lines),
                                       f'the command: mmprune {shlex.join(command)}',
                                       'what is done stays: run compress again to go on from here']))
