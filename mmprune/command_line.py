"""What the commands share: options, progress, json output, one-line errors."""
import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, NoReturn, Optional

import torch
from mmengine.config import DictAction
from mmengine.utils import ProgressBar

from .arguments import MOST_THREADS, UserError, share, sizes, whole_number
from .files import write_text

#: Functions of mmengine that build something from a config.
BUILDING = {'build_from_cfg', 'build_dataloader', 'build_train_loop', 'build_val_loop', 'build_test_loop'}


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, which is several."""

    def error(self, message: str) -> NoReturn:
        """End the process with a message and status 2."""
        self.exit(2, f'{self.prog}: error: {message}\n')


class ShapeAction(argparse.Action):
    """Four positive sizes, ``N C H W``."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        """Check the sizes and keep them."""
        try:
            setattr(namespace, self.dest, list(sizes(option_string or self.dest, values)))
        except UserError as error:
            parser.error(str(error))


class ConfigOptions(DictAction):
    """Pairs ``key=value``, as mmengine reads them."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        """Read the pairs."""
        wrong = next((text for text in values if not text.partition('=')[0] or '=' not in text), None)
        if wrong is not None:
            parser.error(f'argument {option_string}: {wrong!r} is no key=value')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets that do not close
            parser.error(f'argument {option_string}: {error}')


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number of an option, with its bounds."""

    def read(text: str) -> int:
        try:
            return whole_number('it', int(text), least, most=most)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is no whole number from {least} to {most:,}') from None

    return read


threads = whole(1, MOST_THREADS)
rounds = whole(1, 100_000)


def ratio(text: str) -> float:
    """Return a share that was typed."""
    try:
        return share('it', float(text), '')
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no number between 0 and 1') from None


def points(text: str) -> float:
    """Return points of a metric that were typed."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 0 to 100')
    return value


def device(text: str) -> str:
    """Return a device that was typed."""
    try:
        known = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f'{text!r} is no device, such as cpu or cuda:0') from None
    if known.type != 'cpu' and (known.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f'{text!r} is not there: torch sees no such device')
    return text


def command_parser(description: Optional[str], prog: Optional[str]) -> CommandParser:
    """Return the parser of a command.

    Args:
        description (str): The docstring of its module, printed as it stands.
        prog (str, optional): What it is called; default: the script that runs.
    """
    return CommandParser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, default={},
                        help='changes to the config, key.subkey=value')


def add_require_faster(parser: argparse.ArgumentParser) -> None:
    """Add ``--require-faster``."""
    parser.add_argument('--require-faster', action='store_true',
                        help='end with status 2 unless the pruned model is faster than the dense one')


def add_shape_option(parser: argparse.ArgumentParser, name: str = '--input-shape') -> None:
    """Add the option of the input that is traced."""
    parser.add_argument(name, type=int, nargs='+', action=ShapeAction, metavar='SIZE',
                        help='N C H W of the input; default: the config\'s, else the size of its test pipeline')


def bar_on_stderr() -> Callable[[int, int], None]:
    """Return what draws a progress bar on stderr when it is told how much is done, of how much."""
    bars: List[ProgressBar] = []

    def show(done: int, of: int) -> None:
        if not bars or done <= bars[-1].completed:  # it has begun, or begun again
            bars.append(ProgressBar(of, file=sys.stderr))
        bars[-1].update(done - bars[-1].completed)
        if done == of:
            sys.stderr.write('\n')

    return show


def emit_json(value: Dict[str, Any], target: str) -> None:
    """Write json to a file, or to stdout for ``-``."""
    text = json.dumps(value, indent=2) + '\n'
    if target == '-':
        sys.stdout.write(text)
    else:
        write_text(text, target)


def mistake_in_config(error: Exception) -> Optional[str]:
    """Return, in one line, what is wrong with the values of a config from which mmengine was building something.

    That is an error of mmengine's registry itself, or of a constructor of another package that it called, whose
    arguments are those of the config. Any other error is none of the user's, for which this returns None.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names, last = [frame.f_code.co_name for frame in frames], frames[-1]
    text = ' '.join(str(error.args[0] if error.args else error).partition('. Please check')[0].split())
    if not BUILDING & {*names} or names[-1] not in ('build_from_cfg', '__init__'):
        return None
    if names[-1] == '__init__':
        if str(Path(last.f_code.co_filename)).startswith(str(Path(__file__).parent)):
            return None
        text = f'{type(last.f_locals.get("self")).__name__}: {text}'
    return f'{text.rstrip(".")}; it is in the config or in one of its bases'


def run(main: Callable[[], None]) -> None:
    """Run a command; a user's mistake ends it with one message and status 2 instead of a traceback."""
    try:
        main()
    except (UserError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError,
            PermissionError) as error:
        sys.stderr.write(f'error: {error}\n')
        sys.exit(2)
    except (KeyError, TypeError, ValueError) as error:
        what = mistake_in_config(error)
        if what is None:
            raise
        sys.stderr.write(f'error: {what}\n')
        sys.exit(2)
    except (ConnectionError, EOFError):
        time.sleep(1)  # a data worker that died is told by a signal, whose handler raises the cause here
        raise
