"""Where the time goes: the nodes of the exported files by onnxruntime's profile, measured once and kept."""
import hashlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ...arguments import UserError
from ...deploy.machine import OtherWork, cpu_name
from ...deploy.runtimes.onnx_runtime import OnnxRuntime
from ...files import write_json
from ...latency.fast_path import FAST, OF_CONVOLUTION, PLAIN, REORDER, VECTOR, WIDEST, FastPathNode, fast_path, summary
from ...latency.node_law import layer_name
from . import number as text
from .content import Bar, Bars, Block, Code, Paragraph, Section, Table
from .number import number
from .road import Road

#: File in the folder.
KEPT = 'report_profile.json'
#: Name of a profile -> stage and keys that name its file, the first that is recorded.
PROFILED = {'dense': ('deploy', 'dense_file'), 'pruned': ('deploy', 'pruned_file', 'file'), 'INT8': ('int8', 'file')}
#: Changes with what is said of nodes: a profile that was kept by another version is measured again.
FORMAT = 2
#: What a profile holds.
PARTS = ('format', 'sha256', 'threads', 'runtime', 'machine', 'warnings', 'nodes')
#: Module that :class:`~mmprune.deploy.onnx_export.DeployOutput` puts around the network.
WRAPPER = '/model'
#: Rows of the table of nodes.
MOST = 20
LAYOUTS = {FAST: 'fast layout', PLAIN: 'plain layout', REORDER: 'changing from one to the other'}


def profiles_of(road: Road, runtime_threads: int = 1) -> Tuple[Dict[str, Any], List[str]]:
    """Return name -> profile of the exported files, and what went wrong, each in a line.

    A profile that is kept in the folder is taken as long as its file has not changed; others are measured and kept. It
    holds ``format``, ``sha256`` of the file, ``threads``, ``runtime``, ``machine``, ``warnings`` and ``nodes`` (lists
    of what :class:`~mmprune.latency.fast_path.FastPathNode` has).

    Args:
        road (Road): Of the folder.
        runtime_threads (int): Threads, where the record of the times does not say.
    """
    kept, problems = road.kept(KEPT), []
    found: Dict[str, Any] = {}
    for name, (stage, *keys) in PROFILED.items():
        file = next(filter(None, (road.path(stage, key) for key in keys)), None)
        if file is None:
            continue
        try:
            found[name] = _profile(file, kept.get(name), _threads(road, runtime_threads), road.plan.input_shape)
        except (UserError, OSError) as error:
            problems.append(road.told(f'{name}: {error}'))
    if {**kept, **found} != kept:
        write_json({**kept, **found}, road.folder / KEPT)
    return found, problems


def _threads(road: Road, default: int) -> int:
    threads = number(road.get('deploy', 'times', 'pruned', 'threads'))
    return default if threads is None else int(threads)


def _profile(file: Path, kept: Any, threads: int, shape: Sequence[int]) -> Mapping[str, Any]:
    if not file.is_file():
        raise UserError(f'there is no file {str(file)!r}')
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    of = dict(format=FORMAT, sha256=digest, threads=threads)
    if isinstance(kept, dict) and {*kept} == {*PARTS} and of.items() <= kept.items():
        return kept
    other_work = OtherWork(threads)
    nodes = fast_path(file, threads, shape=shape)
    return dict(of, runtime=f'onnxruntime {OnnxRuntime().version()}', machine=cpu_name(),
                warnings=other_work.warnings(), nodes=[list(node) for node in nodes])


def profile_section(road: Road, found: Mapping[str, Any], problems: Sequence[str]) -> Section:
    """Return which layers the time goes to, and which nodes fell out of the fast layout.

    Args:
        road (Road): Of the folder.
        found (dict): Of :func:`profiles_of`.
        problems (list[str]): What went wrong.
    """
    section = Section('profile', 'Where the time goes')
    section.blocks += [Paragraph(problem, missing=True) for problem in problems]
    if 'deploy' not in road.records:
        section.blocks.append(Paragraph('Nothing has been exported yet, so nothing could be profiled.', missing=True))
    nodes = {name: [FastPathNode(*node) for node in one['nodes']] for name, one in found.items()}
    if nodes:
        section.blocks += [*_about(found), *_followed(road, found), *_layouts(nodes), *_fallen(nodes), *_nodes(nodes),
                           *_operators(nodes)]
    return section


def _about(found: Mapping[str, Any]) -> List[Block]:
    one = next(iter(found.values()))
    threads = f'{one["threads"]} thread{"" if one["threads"] == 1 else "s"}'
    disturbed = {name: profile['warnings'][0] for name, profile in found.items() if profile['warnings']}
    return [Paragraph(['Time of the kernels of each node, by the profile of ', f'{one["runtime"]}, {threads}, on '
                       f'{one["machine"]}. Measured for this report and kept in ', Code(KEPT), '.']),
            *([Paragraph(f'Times of {", ".join(disturbed)} are doubtful: {next(iter(disturbed.values()))}',
                         missing=True)] if disturbed else [])]


def _followed(road: Road, found: Mapping[str, Any]) -> List[Block]:
    """Return what the files hold, where a deployed file has more than the network."""
    if 'pruned' not in found or not isinstance(road.get('deploy', 'pruned_file'), str):
        return []
    return [Paragraph('Dense and pruned are the networks alone, as they were timed, without what follows them in a '
                      'deployed file, such as the decoding of boxes and their NMS.'
                      + (' INT8 is the deployed file, with all of it; integer operators have the plain layout alone.'
                         if 'INT8' in found else ''))]


def _layouts(nodes: Mapping[str, Sequence[FastPathNode]]) -> List[Block]:
    rows = []
    for name, several in nodes.items():
        spent = {layout: values for layout, values in summary(several).items() if values[0]}
        note = text.milliseconds(sum(milliseconds for _, milliseconds in spent.values()))
        counts = ', '.join(f'{layout} {text.plain_ms(milliseconds)} ({many})'
                           for layout, (many, milliseconds) in spent.items())
        rows.append(Bar(name, [(layout, milliseconds) for layout, (_, milliseconds) in spent.items()],
                        f'{note}: {counts}'))
    return [Bars(rows, LAYOUTS, ('file', 'sum over the nodes: layout, milliseconds (how many nodes)'))]


def _fallen(nodes: Mapping[str, Sequence[FastPathNode]]) -> List[Block]:
    fell = [node for node in nodes.get('pruned', ()) if node.layout == PLAIN and node.reason]
    if 'pruned' not in nodes:
        return []
    if not fell:
        return [Paragraph('No node of the pruned file that could run in the fast layout fell out of it.')]
    spent = text.milliseconds(sum(node.milliseconds for node in fell))
    count = '1 node' if len(fell) == 1 else f'{len(fell)} nodes'
    return [Paragraph(f'{count} of the pruned file, {spent}, fell out of the fast layout. Whole blocks of channels (a '
                      f'divisor of {OF_CONVOLUTION} or {VECTOR}) keep them in it.'),
            Table(['ms', 'operator', 'node', 'why'],
                  [[text.plain_ms(node.milliseconds), node.op, _name(node), node.reason] for node in fell],
                  left=(1, 2, 3), shown=10)]


def _nodes(nodes: Mapping[str, Sequence[FastPathNode]]) -> List[Block]:
    """Return the nodes that take longest, dense beside pruned."""
    main = 'pruned' if 'pruned' in nodes else next(iter(nodes))
    dense = {_layer(node): node.milliseconds for node in nodes.get('dense', ())}
    total = sum(node.milliseconds for node in nodes[main])
    longest = sorted(nodes[main], key=lambda node: -node.milliseconds)[:MOST]
    rows = [[text.plain_ms(dense.get(_layer(node))), text.plain_ms(node.milliseconds),
             text.share(text.ratio(node.milliseconds, total)), node.layout, node.op, _name(node)] for node in longest]
    more = len(nodes[main]) - len(longest)
    rest = f'; {more} more take less:' if more else ':'
    return [Paragraph(f'The nodes of the {main} file that take longest{rest}'),
            Table(['dense ms', f'{main} ms', 'share', 'layout', 'operator', 'node'], rows, left=(3, 4, 5), shown=10)]


def _name(node: FastPathNode) -> Code:
    return Code(layer_name(_layer(node), WIDEST))


def _layer(node: FastPathNode) -> str:
    """Return a node's name without the wrapper in which some exporters put the whole network."""
    return node.name[len(WRAPPER):] if node.name.startswith(f'{WRAPPER}/') else node.name


def _operators(nodes: Mapping[str, Sequence[FastPathNode]]) -> List[Block]:
    spent = {name: _by_operator(several) for name, several in nodes.items()}
    operators = sorted({op for times in spent.values() for op in times},
                       key=lambda op: (-max(times.get(op, 0.0) for times in spent.values()), op))
    rows = [[op, *(text.plain_ms(times.get(op)) for times in spent.values())] for op in operators]
    return [Paragraph('By operator:'), Table(['operator', *(f'{name} ms' for name in spent)], rows, shown=10)]


def _by_operator(nodes: Sequence[FastPathNode]) -> Dict[str, float]:
    spent: Dict[str, float] = {}
    for node in nodes:
        spent[node.op] = spent.get(node.op, 0.0) + node.milliseconds
    return spent
