"""Every python snippet of README and docs runs; every file they name exists."""
import re

import pytest
import torch
from paths import ROOT
from torch import nn

from mmprune.graph.demo_input import DemoInput
from mmprune.graph.rules.table import LAYER_RULES, MODULE_RULES, OP_RULES
from mmprune.registry import MODELS, RUNTIMES, build
from mmprune.report.proof import verify
from mmprune.units.attention.taking_over import ATTENTIONS
from mmprune.units.complexity import COUNTERS
from mmprune.units.mutator import ChannelMutator

PAGES = [*(ROOT / f'{name}.md' for name in ('README', 'CONTRIBUTING', 'CHANGELOG')),
         *sorted((ROOT / 'docs').glob('*.md'))]
SNIPPETS = [(page.name, number, code) for page in PAGES
            for number, code in enumerate(re.findall(r'```python\n(.*?)```', page.read_text(), re.S))]
#: What a page is about, where not every environment has it.
ABOUT = {'timm.md': ('timm',), 'transformers.md': ('transformers', 'accelerate')}
NAMED = sorted({(page.name, path) for page in PAGES for path in re.findall(
    r'(?<![\w/.])((?:mmprune|tools|configs|docs|benchmarks|requirements|tests)/[\w./-]+\.\w+)', page.read_text())})


@pytest.fixture(autouse=True)
def own_tables():
    """What a snippet registers is gone after the test."""
    tables = [OP_RULES, LAYER_RULES, MODULE_RULES, COUNTERS, ATTENTIONS, MODELS._module_dict, RUNTIMES._module_dict]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before):
        table.update(entries)
        for name in [name for name in table if name not in entries and table[name].__module__ == 'snippet']:
            del table[name]  # what a module registered that a snippet was the first to import stays


@pytest.mark.parametrize(('page', 'number', 'code'), SNIPPETS, ids=[f'{page}-{n}' for page, n, _ in SNIPPETS])
def test_snippet_runs(page, number, code, tmp_path, monkeypatch):
    for library in ABOUT.get(page, ()):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f'{page}, snippet {number}', 'exec'), {'__name__': 'snippet'})


@pytest.mark.parametrize(('page', 'path'), NAMED)
def test_named_file_exists(page, path):
    assert (ROOT / path).exists(), f'{page} names {path}'


def snippet(page: str, number: int) -> dict:
    scope: dict = {'__name__': 'snippet'}
    exec(next(code for name, n, code in SNIPPETS if (name, n) == (page, number)), scope)
    return scope


def mutator_of(model: nn.Module, shape) -> ChannelMutator:
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True))
    mutator.demo_input = DemoInput(shape)
    mutator.prepare(model)
    return mutator


class Crossing(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.second(torch.linalg.cross(x, x.flip(2), dim=3))


def test_op_rule_of_the_docs_frees_channels():
    with pytest.raises(ValueError, match='linalg_cross has no channel rule'):
        mutator_of(Crossing(), (1, 3, 4, 3))
    snippet('extending.md', 0)
    assert [unit.name for unit in mutator_of(Crossing(), (1, 3, 4, 3)).units] == ['first_(0, 6)_6']


def test_module_rule_of_the_docs_frees_channels():
    def net(sharpen):
        return nn.Sequential(nn.Conv2d(3, 6, 1), sharpen, nn.Conv2d(6, 2, 1))

    sharpen = type('Sharpen', (nn.Module,), {'forward': lambda self, x: torch.from_numpy(x.detach().numpy() ** 2)})
    with pytest.raises(ValueError, match='no conv or linear layer reads it'):
        mutator_of(net(sharpen()), (1, 3, 4, 4))
    scope = snippet('extending.md', 1)
    subclass = type('Sharper', (scope['Sharpen'],), {})
    for kind in (scope['Sharpen'], subclass):
        mutator = mutator_of(net(kind()), (2, 3, 4, 4))
        assert [unit.name for unit in mutator.units] == ['0_(0, 6)_6']
        assert verify(mutator)['max_relative_difference'] < 1e-12


def test_rules_of_the_docs_are_short():
    for number in (0, 1):
        code = next(code for name, n, code in SNIPPETS if (name, n) == ('extending.md', number))
        assert len(code.splitlines()) < 20


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair, self.last = nn.Bilinear(5, 4, 6, bias=False), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.pair(x, x[:, :4]))


def test_counter_of_the_docs_counts():
    snippet('extending.md', 2)
    mutator = mutator_of(Bilinear(), (3, 5))
    assert mutator.cost['macs'] == 3 * 6 * 5 * (4 + 1) + 3 * 6 * 2
    mutator.apply_structure({'pair_(0, 6)_6': 4})
    assert mutator.cost['macs'] == 3 * 4 * 5 * (4 + 1) + 3 * 4 * 2
    assert mutator.model.pair.weight.shape == (4, 5, 4)


def test_score_of_the_docs_is_used():
    snippet('extending.md', 3)
    mutator = MODELS.build(dict(type='mmprune.GroupFisherChannelMutator',
                                channel_unit_cfg=dict(type='mmprune.DampedFisherUnit')))
    mutator.demo_input = DemoInput((1, 3, 4, 4))
    mutator.prepare(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)))
    mutator.fisher += 2.0
    cost = 16 / 1e6
    torch.testing.assert_close(mutator.scores()['0_(0, 6)_6'], torch.full((6,), 2.0 / cost**0.5))


def test_runtime_of_the_docs_computes_the_same(tmp_path):
    snippet('extending.md', 5)
    runtime, net = build(RUNTIMES, dict(type='ChannelsLast')), nn.Conv2d(3, 4, 3).eval()
    x = torch.randn(1, 3, 6, 6)
    with runtime.opened(runtime.prepare(net, x, tmp_path / 'none'), x) as run, torch.no_grad():
        torch.testing.assert_close(run()[0], net(x))
