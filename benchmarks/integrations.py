"""Save pruned models of timm and transformers, load them again, and compare the outputs, bit for bit.

bash tools/setup_env.sh benchmarks                                            # what it runs in
OMP_NUM_THREADS=1 python benchmarks/integrations.py                           # what has no result yet, then
OMP_NUM_THREADS=1 python benchmarks/integrations.py --only 'mobile*' --again
python benchmarks/integrations.py --only - --markdown docs/integrations.md    # the page, without a run

Each network runs in a process of its own. Results are kept as lines of json, the last of a network counts, so that a
run can be interrupted and go on.
"""
import argparse
import copy
import datetime
import fnmatch
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from foreign_models import build, entries
from isolated import in_process, read
from torch import nn

from mmprune import Pruner
from mmprune.files import write_text
from mmprune.graph.nested import output_tensors
from mmprune.integrations import timm as of_timm
from mmprune.integrations import transformers as of_transformers
from mmprune.units.equivalence import randomise

ROOT = Path(__file__).resolve().parents[1]
RATIO = 0.4
PACKAGES = ('torch', 'timm', 'transformers')
TOKENS = dict(input_ids=torch.arange(16)[None] * 7 % 100, attention_mask=torch.ones(1, 16, dtype=torch.long))
_BACKBONE: Dict[str, Any] = dict(hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 1, 1], out_features=['stage4'])
#: Networks of transformers that take no images, or more than one config: class, arguments of its config.
OTHERS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    'transformers BERT': ('BertForSequenceClassification', dict(num_hidden_layers=3)),
    'transformers DistilBERT': ('DistilBertForSequenceClassification', dict(n_layers=3)),
    'transformers RoBERTa': ('RobertaForSequenceClassification', dict(num_hidden_layers=3)),
    'transformers GPT-2': ('GPT2LMHeadModel', dict(n_layer=3)),
    'transformers Llama': ('LlamaForCausalLM', dict(
        vocab_size=1000, hidden_size=256, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512)),
    'transformers DETR': ('DetrForObjectDetection', dict(
        use_timm_backbone=False, backbone=None, encoder_layers=2, decoder_layers=2))}


def names() -> List[str]:
    """Return the names of all networks."""
    return [name for name, entry in entries().items() if entry.package in PACKAGES] + list(OTHERS)


def network(name: str) -> Tuple[nn.Module, Dict[str, Any]]:
    """Return a network with random weights, and what it is called with."""
    if name not in OTHERS:
        model, size = build(entries()[name])
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        return model, {'pixel_values' if name.startswith('transformers') else 'x': image}
    import transformers
    torch.manual_seed(0)
    kind = getattr(transformers, OTHERS[name][0])
    arguments = dict(OTHERS[name][1])
    if name.endswith('DETR'):
        arguments['backbone_config'] = transformers.ResNetConfig(embedding_size=64, **_BACKBONE)
        return kind(kind.config_class(**arguments)), dict(pixel_values=torch.randn(1, 3, 128, 128))
    return kind(kind.config_class(**arguments)), TOKENS


def round_trip(name: str) -> Dict[str, Any]:
    """Prune one network, save and load it; return what was found, as plain values."""
    model, inputs = network(name)
    model.eval()
    randomise(model, 0)
    before = sum(parameter.numel() for parameter in model.parameters())
    pruner = Pruner(model, inputs.get('x', inputs), 'L2', RATIO)
    pruner.cut()
    adapter: Any = of_transformers if name.startswith('transformers') else of_timm
    with tempfile.TemporaryDirectory() as folder:
        adapter.save_pruned(pruner, folder)
        start = time.process_time()
        loaded = adapter.load_pruned(folder)
        seconds = time.process_time() - start
    with torch.no_grad():
        outputs = [output_tensors(one(*inputs.values()) if 'x' in inputs else one(**inputs))
                   for one in (model, loaded)]
    equal = all(torch.equal(*pair) for pair in zip(*outputs))
    found: Dict[str, Any] = dict(equal=equal, left=sum(one.numel() for one in loaded.parameters()) / before,
                                 seconds=seconds)
    return {**found, **metadata(loaded, inputs['x'])} if 'x' in inputs else found


def metadata(model: Any, image: torch.Tensor) -> Dict[str, Any]:
    """Return whether what a model of timm states are the widths of its real outputs."""
    with torch.no_grad():
        features = output_tensors(model.forward_features(image))[0]
        head = output_tensors(model.forward_head(model.forward_features(image), pre_logits=True))[0]
        found: Dict[str, Any] = dict(widths=f'{model.num_features}, {model.head_hidden_size}', right=(
            model.num_features in features.shape and model.head_hidden_size in head.shape))
        if hasattr(model, 'forward_intermediates'):
            maps = model.forward_intermediates(image, intermediates_only=True)
            found['stages'] = [info['num_chs'] for info in model.feature_info] == [one.shape[1] for one in maps]
        other = copy.deepcopy(model)
        other.reset_classifier(7)
        found['reset'] = output_tensors(other(image))[0].shape[-1] == 7
    return found


def row(name: str, found: Dict[str, Any]) -> str:
    """Return the line of a network in the table."""
    if 'error' in found:
        return f'| {name} | {found["error"]} | | | | | |'
    said = {True: 'yes', False: '**no**', None: ''}
    return (f'| {name} | {said[found["equal"]]} | {found["left"]:.0%} | {found.get("widths", "")} '
            f'{"" if found.get("right", True) else "**wrong**"} | {said[found.get("stages")]} | '
            f'{said[found.get("reset")]} | {found["seconds"]:.1f} |')


HEADLINE = '''# Pruned models of timm and transformers, saved and loaded

`OMP_NUM_THREADS=1 python benchmarks/integrations.py --markdown docs/integrations.md`, {date}, {machine}.

Each network has random weights and norms, is cut by `mmprune.Pruner(model, inputs, 'L2', ratio={ratio})`, saved by
`save_pruned` and loaded by `load_pruned` ([timm](timm.md), [transformers](transformers.md)). *Equal*: the outputs of
the loaded model are those of the saved one, bit for bit. *Left*: share of the parameters. Of timm: `num_features` and
`head_hidden_size` are widths of what `forward_features` and `forward_head` return (a wrong one is marked),
`feature_info` those of `forward_intermediates` (*stages*), and the model runs after `reset_classifier(7)` (*reset*).
*s*: CPU seconds of loading, on one thread beside other work.

{count} networks: {equal} equal, {wrong} with wrong metadata, {refused} not run.

| network | equal | left | widths | stages | reset | s |
| --- | --- | ---: | ---: | --- | --- | ---: |
'''


def document(results: Dict[str, Dict[str, Any]]) -> str:
    """Return the page."""
    found = {name: results[name] for name in names() if name in results}
    versions = ', '.join(f'{package} {importlib.metadata.version(package)}' for package in PACKAGES)
    ran = [one for one in found.values() if 'error' not in one]
    wrong = sum(False in (one.get('right'), one.get('stages'), one.get('reset')) for one in ran)
    machine = f'{platform.machine()}, {os.cpu_count()} cores; {versions}'
    head = HEADLINE.format(date=datetime.date.today(), machine=machine, ratio=RATIO, count=len(found),
                           equal=sum(one['equal'] for one in ran), wrong=wrong, refused=len(found) - len(ran))
    return head + '\n'.join(row(name, one) for name, one in found.items()) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=['*'], help='names or patterns (default: all)')
    parser.add_argument('--again', action='store_true', help='run networks that have a result too')
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs' / 'integrations.jsonl')
    parser.add_argument('--seconds', type=float, default=1e9, help='start no network after that long')
    parser.add_argument('--markdown', type=Path, help='write the page to this file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    done, start = read(args.results), time.time()
    for name in names():
        if not any(fnmatch.fnmatch(name, pattern) for pattern in args.only) or (name in done and not args.again):
            continue
        if time.time() - start > args.seconds:
            break
        result = in_process(round_trip, name, 12.0, 900.0, 300.0)
        with args.results.open('a') as sink:
            sink.write(json.dumps(result) + '\n')
        print(row(name, result), flush=True)
    if args.markdown:
        write_text(document(read(args.results)), args.markdown)


if __name__ == '__main__':
    main()
