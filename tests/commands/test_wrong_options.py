"""Every option of every command gets a text, 0, -1 and 1e9: one line and status 2, or it is legal.

What there is to give is read off the parsers, so that new options are tested as they come. A command is stopped where
it would build a model or a run: whatever is wrong must be refused before. Values that are taken although they look
wrong are listed with the reason; a value that is listed and refused fails, too.
"""
import argparse
import importlib

import pytest
import torch
from paths import ROOT, TINY

from mmprune.commands import COMMANDS, main
from mmprune.report.stage_record import CompressPlan, write_plan

VALUES = ('no such thing', '0', '-1', '1e9', '1000000000')
DIGITS = ROOT / 'configs/mmcls/digits'
PRUNE = DIGITS / 'group_fisher_act_prune_resnet-small_digits.py'
DEPLOY = DIGITS / 'group_fisher_act_deploy_resnet-small_digits.py'
STRUCTURE = DIGITS / 'group_fisher_act_resnet-small_digits.json'
SCHEDULE = ROOT / 'configs/mmcls/fpgm/fpgm_prune_resnet18_8xb32_in1k.py'
EXPORT = ROOT / 'configs/deploy/classification_onnxruntime_static.py'
#: Command -> its arguments, and what would run for long, as the command finds it.
GOOD = {
    'compress': ([TINY, 'FILE', '--target', 'flops=0.5'], 'compress.surveyed'),
    'train': ([TINY], 'train.Runner.from_cfg'),
    'test': ([TINY, 'FILE'], 'test.Runner.from_cfg'),
    'units': ([TINY], None), 'cost': ([TINY, STRUCTURE], None), 'verify': ([TINY], None),
    'report': (['FOLDER'], 'report.write_report'),
    'slimming-schema': ([TINY], None), 'repair': ([PRUNE, 'FILE', '--dense', 'FILE'], 'repair.read_twins'),
    'export': ([TINY, 'none', '--out', 'x.onnx'], 'export.load_model'),
    'deploy': ([EXPORT, TINY, 'FILE', 'FILE', '--work-dir', 'x', '--exporter', 'dynamo'], 'deploy.load_model'),
    'test-deployed': ([EXPORT, TINY, 'FILE'], 'test_deployed.DeployedEvaluation'),
    'divisor': ([DEPLOY, 'none'], 'divisor.search'), 'latency': ([TINY], None),
    'latency-pack': ([TINY, '--out', 'x'], None),
    'draw-structure': ([STRUCTURE, '--out', 'x.png'], 'draw_structure.draw_structure'),
    'forecast-structure': ([SCHEDULE], 'forecast_structure.MODELS.build'),
    'convert-mmrazor': ([PRUNE, 'FILE', 'x.pth'], 'convert_mmrazor.MODELS.build'),
    'convert-torchvision': (['FILE', 'x.pth'], 'convert_torchvision.convert')}
#: What builds the models of the other commands.
BUILDER = 'mmprune.models.from_config.build_architecture'
NAME = dict.fromkeys(VALUES, 'any text names a file or a folder, or is a title')
#: Values that are taken: option, of a command or of all that have it -> value -> why.
LEGAL = {
    **dict.fromkeys(('--json', '--out', '--work-dir', '--title', '--prefix', 'target'), NAME),
    'draw-structure --out': {}, 'units --picture': {},  # their suffix tells the format
    '--local_rank': {'0': 'the first'},
    'compress --metric': dict.fromkeys(VALUES, 'what metrics there are is known after the first test'),
    'compress --finetune': {'0': 'none'}, 'compress --int8-drop': {'0': 'nothing may be lost'},
    'deploy --metric': dict.fromkeys(VALUES, 'a metric of the evaluator, which says what it has'),
    'deploy --max-drop': {'0': 'nothing may be lost'},
    'export checkpoint': {}, 'divisor checkpoint': {}}


class Stopped(Exception):  # noqa: N818
    """The command would do its work now."""


def stop(*args, **kwargs):
    raise Stopped


def parser_of(name):
    """Return the parser of a command."""
    kept = []

    def keep(self, *args):
        kept.append(self)
        raise Stopped

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, 'parse_args', keep)
        with pytest.raises(Stopped):
            importlib.import_module(f'mmprune.commands.{COMMANDS[name]}').main([])
    return kept[0]


def actions():
    """Return (command, option) of everything that takes a value; the option by its first name."""
    return [(name, (action.option_strings or [action.dest])[0]) for name in COMMANDS
            for action in parser_of(name)._actions if action.nargs != 0]


def with_value(name, option, arguments, values):
    """Return the arguments of a command with values for an option, or in the place of a positional argument."""
    if option.startswith('--'):
        if option in arguments:
            place = arguments.index(option)
            arguments = [*arguments[:place], *arguments[place + 2:]]
        return [*arguments, option, *values]
    places = [action.dest for action in parser_of(name)._actions if not action.option_strings]
    place = places.index(option)
    return [*arguments[:place], *values, *arguments[place + 1:]]


def end_of(name, arguments, capsys, monkeypatch):
    """Run a command up to its work; return what it wrote to stderr and its status, or None if it got there."""
    for target in (BUILDER, GOOD[name][1] and f'mmprune.commands.{GOOD[name][1]}'):
        if target:
            monkeypatch.setattr(target, stop)
    try:
        main([name, *map(str, arguments)])
    except Stopped:
        return None
    except SystemExit as ended:
        return capsys.readouterr().err, ended.code
    raise AssertionError('the command was not stopped')


@pytest.fixture
def arguments_of(tmp_path, monkeypatch):
    """Return the arguments of a command, in an empty folder."""
    torch.save(dict(weight=torch.zeros(1)), tmp_path / 'file.pth')
    write_plan(CompressPlan('x.py', 'x.pth', {}, 'acc', [1, 3, 8, 8], {}, {}, ''), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    made = {'FILE': str(tmp_path / 'file.pth'), 'FOLDER': str(tmp_path)}
    return lambda name: [made.get(str(argument), str(argument)) for argument in GOOD[name][0]]


def refused(found, given):
    assert found is not None, f'{given} is taken'
    text, status = found
    assert status == 2
    assert text.count('\n') == 1, text
    assert text.endswith('\n')
    assert len(text) < 400


@pytest.mark.parametrize('name', COMMANDS)
def test_good_arguments_reach_the_work(name, arguments_of, capsys, monkeypatch):
    """The frame of the tests below."""
    assert end_of(name, arguments_of(name), capsys, monkeypatch) is None


@pytest.mark.parametrize(('name', 'option'), actions())
def test_wrong_value_of_an_option_is_one_line(name, option, arguments_of, capsys, monkeypatch):
    legal = LEGAL.get(f'{name} {option}', LEGAL.get(option, {}))
    for value in VALUES:
        found = end_of(name, with_value(name, option, arguments_of(name), [value]), capsys, monkeypatch)
        if value in legal:
            assert found is None, f'{value!r} is legal ({legal[value]}), but refused: {found}'
        else:
            refused(found, value)


@pytest.mark.parametrize(('name', 'option'), [(name, option) for name, option in actions() if 'shape' in option])
@pytest.mark.parametrize('place', range(4))
def test_wrong_size_in_a_shape_is_one_line(name, option, place, arguments_of, capsys, monkeypatch):
    good = ['1', '3', '16', '16']
    assert end_of(name, with_value(name, option, arguments_of(name), good), capsys, monkeypatch) is None
    for value in VALUES:
        sizes = [*good[:place], value, *good[place + 1:]]
        refused(end_of(name, with_value(name, option, arguments_of(name), sizes), capsys, monkeypatch), sizes)


@pytest.mark.parametrize('name', COMMANDS)
def test_options_that_are_unknown_missing_or_flags_with_a_value_are_one_line(name, arguments_of, capsys, monkeypatch):
    flags = [action.option_strings[0] for action in parser_of(name)._actions if action.nargs == 0]
    for more in (['--no-such-option'], ['one', 'more', 'and more'], *([f'{flag}=1'] for flag in flags)):
        refused(end_of(name, [*arguments_of(name), *more], capsys, monkeypatch), more)
    refused(end_of(name, [], capsys, monkeypatch), 'nothing')
