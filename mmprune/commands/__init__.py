"""The console command ``mmprune``: one module a sub-command, which is imported when it runs."""
import ast
import functools
import importlib
import sys
from pathlib import Path
from typing import List, NoReturn, Optional, Sequence

#: Sub-command -> its module here, whose docstring is its help.
COMMANDS = {
    'compress': 'compress',
    'train': 'train',
    'test': 'test',
    'units': 'units',
    'cost': 'cost',
    'repair': 'repair',
    'verify': 'verify',
    'report': 'report',
    'export': 'export',
    'deploy': 'deploy',
    'test-deployed': 'test_deployed',
    'divisor': 'divisor',
    'latency': 'latency',
    'latency-pack': 'latency_pack',
    'draw-structure': 'draw_structure',
    'forecast-structure': 'forecast_structure',
    'slimming-schema': 'slimming_schema',
    'convert-mmrazor': 'convert_mmrazor',
    'convert-torchvision': 'convert_torchvision',
}
USAGE = 'usage: mmprune COMMAND ...'


def summary(name: str) -> str:
    """Return how a sub-command's help begins, up to a colon, without importing what the sub-command needs.

    Args:
        name (str): A key of :data:`COMMANDS`.
    """
    source = Path(__file__).with_name(f'{COMMANDS[name]}.py').read_text(encoding='utf-8')
    first = (ast.get_docstring(ast.parse(source)) or '').partition('\n')[0]
    return first.partition(':')[0].rstrip('.')


def help_text() -> str:
    """Return the help of ``mmprune``: every sub-command with what it does."""
    length = max(map(len, COMMANDS))
    lines: List[str] = [USAGE, '', 'Structural pruning of OpenMMLab models and plain PyTorch networks.', '']
    lines += [f'  {name:<{length}}  {summary(name)}' for name in COMMANDS]
    lines += ['', 'mmprune COMMAND --help tells more; mmprune --version prints the version.', '']
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run a sub-command; a user's mistake ends it with one message and status 2.

    Args:
        argv (list[str], optional): The sub-command and its arguments; default: those of the process.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ['']
    if arguments and f'{name}-{arguments[0]}' in COMMANDS:  # ``latency pack`` is ``latency-pack``
        name, *arguments = f'{name}-{arguments[0]}', *arguments[1:]
    if name in ('-h', '--help'):
        sys.stdout.write(help_text())
    elif name == '--version':
        sys.stdout.write(f'mmprune {importlib.import_module("mmprune").__version__}\n')
    elif name in COMMANDS:
        run = importlib.import_module('mmprune.command_line').run
        command = importlib.import_module(f'{__name__}.{COMMANDS[name]}').main
        run(functools.partial(command, arguments, f'mmprune {name}'))
    else:
        _unknown(name)


def _unknown(name: str) -> NoReturn:
    if not name:
        sys.stderr.write(f'{USAGE}\nerror: which command? mmprune --help lists them\n')
    else:
        nearest = importlib.import_module('mmprune.arguments').nearest  # mmengine takes its time
        sys.stderr.write(f'error: {name!r} is no command of mmprune{nearest(name, list(COMMANDS))}; '
                         'mmprune --help lists them\n')
    sys.exit(2)
