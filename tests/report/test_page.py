"""The page of a folder: every number of the records, whatever is missing, the same when it is made again."""
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from compressed_folders import METRIC, NUMBERS, results, write_folder, write_stages

from mmprune.commands import main
from mmprune.engine.compress.curve import FOLDER as CURVE_FOLDER
from mmprune.engine.schedules.accuracy_curve import CURVE_JSON
from mmprune.report.page import profile, stays
from mmprune.report.page.choice import CURVE
from mmprune.report.page.page import write_report
from mmprune.report.page.road import read_road
from mmprune.report.stage_record import STAGES

VOID = {'meta', 'wbr', 'link', 'img', 'input'}
#: Elements of SVG that are closed where they open.
CLOSED = {'rect', 'line', 'circle', 'polyline'}
HOSTILE = '<script>alert(1)</script> | `a` | **b** & "c" \'d\' [e](http://f) <!-- \n# g'


class Reader(HTMLParser):
    """Reads a page: its elements, attributes and text; raises where an element is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = ' '.join(''.join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in CLOSED
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != 'style':
            self.texts.append(data)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A complete folder with its report, and its structure."""
    folder = tmp_path_factory.mktemp('compressed')
    structure = write_folder(folder)
    write_report(read_road(folder))
    return folder, structure


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the complete folder, with what was measured."""
    return shutil.copytree(made[0], tmp_path / 'folder')


def report_of(folder):
    """Write the report; return the text of the page and the markdown."""
    html, markdown = write_report(read_road(folder))
    return Reader(html.read_text()).text, markdown.read_text()


def columns(line):
    """Return how many cells a line of a markdown table has."""
    return len(re.findall(r'(?<!\\)\|', line)) - 1


def check_tables(markdown):
    """Check that all lines of each table have as many cells; return how many tables there are."""
    blocks = [block.splitlines() for block in markdown.split('\n\n')]
    tables = [lines for lines in blocks if lines[0].startswith('|')]
    for lines in tables:
        assert set(re.sub('[ :|-]', '', lines[1])) == set()
        assert {columns(line) for line in lines} == {columns(lines[0])}, lines
    return len(tables)


def test_every_number_of_the_records_is_there(made):
    folder, structure = made
    page, markdown = Reader((folder / 'report.html').read_text()).text, (folder / 'report.md').read_text()
    widths = [f'{kept} of {name.rpartition("_")[2]}' for name, kept in structure.items()]
    for number in [*NUMBERS, *widths]:
        assert number in page, number
        assert number in markdown, number
    assert check_tables(markdown) > 8
    for record in results().values():
        for value in record.values():
            if isinstance(value, str):
                assert value in page


def test_the_page_is_whole_and_asks_for_nothing(made):
    html = (made[0] / 'report.html').read_text()
    reader = Reader(html)
    assert not {'script', 'link', 'img', 'iframe', 'object', 'embed', 'base', 'form'} & {*reader.tags}
    assert not [name for name, _ in reader.attributes if name.startswith('on') or name in ('src', 'style')]
    links, names = ([value for name, value in reader.attributes if name == kind] for kind in ('href', 'id'))
    assert links == [f'#{name}' for name in names]
    assert len({*names}) == len(names) == 9
    assert not re.search(r'https?://|url\(|@import', html)
    assert reader.tags.count('h1') == 1


def test_pictures_of_the_markdown_are_files_of_their_own(made):
    folder, _ = made
    named = re.findall(r'!\[.*\]\((\S+)\)', (folder / 'report.md').read_text())
    assert sorted(named) == sorted(path.relative_to(folder).as_posix()
                                   for path in (folder / 'report_pictures').iterdir())
    assert len(named) == 6
    for name in named:
        text = (folder / name).read_text()
        assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert 'prefers-color-scheme: dark' in text


def test_a_report_that_is_made_again_is_the_same(made, folder, monkeypatch):
    monkeypatch.setattr(profile, 'fast_path', None)
    monkeypatch.setattr(stays, 'mutator_from_config', None)
    monkeypatch.chdir(folder.parent)
    main(['report', 'folder'])
    for path in (made[0] / 'report.html', made[0] / 'report.md', *(made[0] / 'report_pictures').iterdir()):
        assert (folder / path.relative_to(made[0])).read_bytes() == path.read_bytes()


def test_a_file_that_is_exported_again_is_measured_again(folder, monkeypatch):
    before = json.loads((folder / profile.KEPT).read_text())
    shutil.copy(folder / 'dense.onnx', folder / 'pruned.onnx')
    report_of(folder)
    after = json.loads((folder / profile.KEPT).read_text())
    assert before['dense'] == after['dense']
    assert before['INT8'] == after['INT8']
    assert before['pruned']['sha256'] != after['pruned']['sha256'] == before['dense']['sha256']


def test_networks_are_profiled_without_what_follows_them(folder):
    assert 'Dense and pruned are the networks alone' not in report_of(folder)[0]
    path = folder / 'stages' / 'deploy.json'
    record = json.loads(path.read_text())
    record['result'].update(file='end2end.onnx', pruned_file='pruned.onnx')
    path.write_text(json.dumps(record))
    shutil.copy(folder / 'dense.onnx', folder / 'end2end.onnx')
    before = json.loads((folder / profile.KEPT).read_text())
    page, _ = report_of(folder)
    assert json.loads((folder / profile.KEPT).read_text())['pruned'] == before['pruned']
    assert 'Dense and pruned are the networks alone' in page
    assert 'INT8 is the deployed file' in page


def test_what_was_measured_is_kept_though_a_file_is_gone(folder):
    (folder / profile.KEPT).write_text('{"INT8": 3}')
    (folder / 'dense.onnx').unlink()
    first, again = report_of(folder), report_of(folder)
    assert first == again
    assert "dense: there is no file 'dense.onnx'" in first[0]
    assert {*json.loads((folder / profile.KEPT).read_text())} == {'pruned', 'INT8'}


@pytest.mark.parametrize('text', ['[1]', '{"dense": ', '{"units": 1}'])
def test_damaged_files_of_an_earlier_report_are_made_anew(folder, text):
    for name in (profile.KEPT, stays.KEPT):
        (folder / name).write_text(text)
    page, _ = report_of(folder)
    assert 'is not json' not in page
    assert {'dense', 'pruned', 'INT8'} <= {*json.loads((folder / profile.KEPT).read_text())}
    assert '11 units may be pruned' in page


@pytest.mark.parametrize('done', range(len(STAGES)))
def test_a_folder_that_is_not_complete(folder, done):
    write_stages(folder, STAGES[:done])
    page, markdown = report_of(folder)
    lead = page[:page.index('In short')]
    for stage in STAGES:
        assert (f'{stage} (' in lead.partition('no record of')[2]) == (stage in STAGES[done:])
    assert 'What follows is what there is; run' in markdown
    assert ('Pruning is not done yet' in page) == (done < 2)
    assert ('Nothing has been exported yet' in page) == (done < 5)
    assert ('No run is done yet' in page) == (done < 2)
    assert ('has not been compared with PyTorch yet' in page) == (done < 5)
    check_tables(markdown)


@pytest.mark.parametrize('stage', STAGES)
def test_a_record_without_a_result(folder, stage):
    (folder / 'stages' / f'{stage}.json').write_text(json.dumps(dict(
        stage=stage, commands=[], seconds=1.0, finished='2026', result={})))
    check_tables(report_of(folder)[1])


def test_files_that_are_gone_are_told(folder):
    for name in ('dense.onnx', 'prune/fix_subnet.json', 'dense.py', stays.KEPT, profile.KEPT):
        (folder / name).unlink()
    shutil.rmtree(folder / 'finetune')
    page, markdown = report_of(folder)
    for text in ("dense: there is no file 'dense.onnx'", "fix_subnet: there is no file 'prune/fix_subnet.json'",
                 'The dense model could not be built here', 'there are no scalars in finetune;'):
        assert text in page
    assert str(folder) not in page + markdown
    assert not (folder / stays.KEPT).exists()


def test_texts_are_shown_and_never_taken_for_markup(folder):
    plan = dict(machine=HOSTILE, metric=HOSTILE, checkpoint=HOSTILE, versions={HOSTILE: HOSTILE},
                options={HOSTILE: HOSTILE}, target={HOSTILE: 0.5})
    changes = {stage: dict(metrics={HOSTILE: 77.5}) for stage in ('dense', 'prune', 'test', 'test_deployed')}
    changes['int8'] = dict(format=HOSTILE, left_in_float=[HOSTILE], more={HOSTILE: HOSTILE}, file=HOSTILE)
    write_stages(folder, plan=plan, **changes)
    units = json.loads((folder / stays.KEPT).read_text())
    units['frozen'][0]['reason'] = units['frozen'][0]['name'] = HOSTILE
    (folder / stays.KEPT).write_text(json.dumps(units))
    html, markdown = write_report(read_road(folder))
    reader = Reader(html.read_text())
    assert 'script' not in reader.tags
    assert reader.text.count('<script>alert(1)</script>') > 10
    text = markdown.read_text()
    check_tables(text)
    outside = re.sub(r'(`+).*?\1', '', re.sub(r'```.*?```', '', text, flags=re.S))
    assert '<script' not in outside
    assert '[e](' not in outside
    assert not [line for line in outside.splitlines() if line.startswith('# g')]


@pytest.mark.parametrize(('target', 'changes', 'verdict'), [
    ({'flops': 0.5}, {}, 'reached'), ({'flops': 0.49}, {}, 'missed'),
    ({'latency': 0.75}, {}, 'reached'), ({'latency': 0.7}, {}, 'missed'), ({'latency': 0.72}, {}, 'reached'),
    ({'latency_ms': 0.2}, {}, 'reached'), ({'latency_ms': 0.17}, {}, 'missed')])
def test_what_was_asked_is_judged(folder, target, changes, verdict):
    write_stages(folder, plan=dict(target=target), **changes)
    found = re.findall(r'\*\*(reached|missed)\*\*', report_of(folder)[1])
    assert found == [verdict]


def test_a_network_that_became_slower_and_worse_is_told_so(folder):
    slow = dict(times=dict(dense=dict(median=10.0), pruned=dict(median=12.5)))
    write_stages(folder, STAGES[:-1], deploy=slow)
    page, _ = report_of(folder)
    assert 'takes 12.50 ms for an image instead of 10.00 ms: slower, by a factor of 1.25.' in page
    assert '97.73 instead of 98.74: −1.01 points, worse than before.' in page
    assert 'value bad' in (folder / 'report.html').read_text()


@pytest.mark.parametrize(('finetuned', 'is_worse'), [(90.0, True), (99.0, False)])
def test_a_finetuning_that_makes_it_worse_is_told(folder, finetuned, is_worse):
    write_stages(folder, STAGES, test=dict(metrics={METRIC: finetuned}))
    for page in report_of(folder):
        assert (f'was 91.44 before it, and is {finetuned:.2f} after it' in page) == is_worse


def test_an_error_is_better_where_it_is_lower(folder):
    changes = {stage: dict(metrics={'NME': value}) for stage, value in
               (('dense', 0.06), ('prune', 0.2), ('test', 0.05), ('test_deployed', 0.05))}
    write_stages(folder, STAGES[:-1], plan=dict(metric='NME'), **changes)
    page, _ = report_of(folder)
    assert 'NME of the deployed network is 0.0500 instead of 0.0600: −1.00 points, better than before.' in page
    assert 'down and left is better' in page


def test_stages_that_were_not_asked_for_are_not_missing(folder):
    write_stages(folder, ('dense', 'prune'), plan=dict(options=dict(int8=False, finetune=0.0)))
    assert read_road(folder).missing == ['deploy', 'test-deployed']


@pytest.mark.parametrize(('method', 'how', 'what'), [
    ('one-shot', 'chosen by Taylor scores, and after each cut the layers that read them were solved again in closed '
     'form on 512 training images', 'cut and repaired, not trained'),
    ('group-fisher', 'chosen by Group Fisher scores while the network was trained', 'cut while it was trained'),
    (None, '', 'right after the cut')])
def test_how_channels_were_chosen_is_said(folder, method, how, what):
    options = dict(method=method, criterion='Taylor', images=512)
    write_stages(folder, STAGES, plan=dict(options={key: value for key, value in options.items() if method}))
    for page in report_of(folder):
        assert how in page
        assert what in page


def test_config_is_that_of_the_prune_run_then_one_of_the_folder_then_as_it_was_typed(folder):
    assert read_road(folder).config == str(folder / 'dense.py')
    (folder / 'configs').mkdir()
    (folder / 'configs/prune.py').touch()
    assert read_road(folder).config == str(folder / 'configs/prune.py')
    write_stages(folder, ('dense', ), plan=dict(config='mmcls::resnet/resnet18_8xb32_in1k.py', metric=''))
    assert read_road(folder).config == 'mmcls::resnet/resnet18_8xb32_in1k.py'
    assert read_road(folder).metric_name == 'accuracy'


def test_the_curve_is_shown_where_it_was_measured(folder):
    points = [dict(asked=None, latency=1.0, ms=0.25, flops=1.0, params=1.0, metrics={METRIC: 98.74}),
              dict(asked=0.5, latency=0.487, ms=0.1217, flops=0.401, params=0.293, metrics={METRIC: 98.24})]
    (folder / 'curve').mkdir()
    assert f'{CURVE_FOLDER}/{CURVE_JSON}' == CURVE
    (folder / CURVE).write_text(json.dumps(points))
    page, markdown = report_of(folder)
    for number in ('0.122 ms', '98.24', '−0.50', '48.7 %', '40.1 %', '29.3 %'):
        assert number in page
        assert number in markdown
    assert 'report_pictures/curve.svg' in markdown
    check_tables(markdown)
    (folder / CURVE).write_text('[1, {}')
    assert 'The curve cannot be shown: the curve: ' in report_of(folder)[0]


def test_no_folder_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(['report', str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: the plan: there is no file '{tmp_path}/compress.json': '{tmp_path}' is no folder of "
        '`mmprune compress`\n')
