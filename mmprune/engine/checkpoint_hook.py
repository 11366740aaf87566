"""Checkpoints of runs that may be killed: files are whole, old files are removed last, SIGTERM saves before it ends."""
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any, List, Optional, Union

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..files import whole_file, write_text
from ..registry import HOOKS

WHOLE_FILES = 'mmprune.whole_files'


class WholeFileBackend(LocalBackend):
    """Local files that appear whole or not at all."""

    def put(self, obj: bytes, filepath: Union[str, 'os.PathLike[str]']) -> None:
        """Write bytes beside the file, then move them into place."""
        with whole_file(filepath) as temporary:
            temporary.write_bytes(obj)


register_backend(WHOLE_FILES, WholeFileBackend, force=True)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with the same arguments, for runs that may be killed (``docs/interrupted_runs.md``).

    A checkpoint that cannot be written (disk full) is logged; the run continues, and the last good checkpoint is kept.
    SIGTERM ends the run after its iteration with ``iter_{n}.pth`` and the status of a process that SIGTERM has ended.
    """

    last_ckpt: Optional[str]
    backend_args: Optional[dict]
    _terminated = False
    _previous_handler: Any = None

    def before_train(self, runner: Runner) -> None:
        """Write local files whole; handle SIGTERM."""
        if self.backend_args is None and self.file_client_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = dict(backend=WHOLE_FILES)
        super().before_train(runner)
        for torn in Path(str(self.out_dir)).glob('.[0-9]*.*.pth') if is_main_process() else []:
            torn.unlink()  # what a killed run was writing
        self._terminated = False
        self._previous_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def after_train(self, runner: Runner) -> None:
        """Publish, as mmengine does; restore the handler of SIGTERM."""
        super().after_train(runner)
        signal.signal(signal.SIGTERM, self._previous_handler or signal.SIG_DFL)

    def _on_sigterm(self, number: int, frame: Optional[FrameType]) -> None:
        self._terminated = True

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save where it is due; after SIGTERM save and end the process."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._terminated:
            runner.logger.warning(f'SIGTERM: saving a checkpoint at {runner.iter + 1} iterations and leaving')
            self._save(runner, f'iter_{runner.iter + 1}.pth', dict(epoch=runner.epoch, iter=runner.iter + 1))
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, then remove the checkpoints that are too old."""
        outdated: List[int] = []
        if self.max_keep_ckpts > 0:
            kept = [*[number for number in self.keep_ckpt_ids if number != step], step]
            outdated, kept = kept[:-self.max_keep_ckpts], kept[-self.max_keep_ckpts:]
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        if not self._save(runner, self.filename_tmpl.format(step), meta):
            return
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
        for old in outdated if is_main_process() else []:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save(self, runner: Runner, filename: str, meta: dict) -> bool:
        """Write a checkpoint and name it as the last checkpoint; tell whether that worked."""
        path = self.file_backend.join_path(self.out_dir, filename)
        last = self.last_ckpt
        runner.message_hub.update_info('last_ckpt', path)
        try:
            runner.save_checkpoint(
                self.out_dir, filename, self.file_client_args, save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                backend_args=self.backend_args, **self.args)
            if is_main_process():
                write_text(path, os.path.join(runner.work_dir, 'last_checkpoint'))
        except OSError as error:
            runner.message_hub.update_info('last_ckpt', last)
            runner.logger.error(f'the checkpoint {path} could not be written ({error}); '
                                + (f'the last good one is {last}' if last else 'there is none before it'))
            return False
        self.last_ckpt = path
        return True
