"""A small vision transformer on CIFAR-10 at half of its multiply-adds: what goes, beside a peer, finetuned alike.

bash tools/setup_env.sh benchmarks                                           # what it runs in
MMPRUNE_DATA=... python benchmarks/vit_cifar.py --work-dir W                 # trains the dense network first
MMPRUNE_DATA=... python benchmarks/vit_cifar.py --work-dir W --seeds 0 --only 'all kinds'
python benchmarks/vit_cifar.py --work-dir W --markdown docs/vit_cifar.md     # the page, without a run

128 wide, 6 deep, patches of 4 x 4, of timm. All are cut in five steps by Taylor scores, or group Fisher's per FLOP,
over all their units together, to the same multiply-adds of layers and products, and trained alike: under bfloat16's
autocast and without fused attention, whose backward pass takes most of the time on a CPU. A result is a line of json.
"""
import argparse
import copy
import datetime
import fnmatch
import json
import statistics
from pathlib import Path
from typing import Any, Dict, List, Tuple

import computing
import torch
from computing import Computing
from criteria_table import Images, augmented
from mean_and_error import mean_and_error
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmprune import Pruner
from mmprune.command_line import run
from mmprune.config import plain
from mmprune.files import write_text
from mmprune.models.from_config import read_config
from mmprune.units.complexity import amount

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/mmcls/cifar10/resnet18-narrow_cifar10.py'
SHAPE, TARGET, STEPS, BATCH, CALIBRATION = (1, 3, 32, 32), 0.5, 5, 128, 1024
DENSE, DENSE_EPOCHS, FINETUNE, FINETUNE_EPOCHS = 50000, 26, 24000, 2
PEER = 'torch-pruning'
#: Of the dense network, whose training says what it is called.
CHECKPOINT = f'dense_{DENSE_EPOCHS}.pth'
#: What goes -> choice of the units.
CHOICES: Dict[str, Dict[str, Any]] = {'all kinds': {}, 'MLPs alone': dict(exclude='*.attn', stream='whole')}
FISHER, FISHER_NAME = dict(type='GroupFisher', normalization_type='flops'), 'Fisher per FLOP'
#: Name -> criterion and choice.
OURS: Dict[str, Tuple[Any, Dict[str, Any]]] = {
    **{name: ('Taylor', choice) for name, choice in CHOICES.items()},
    **{f'{name}, {FISHER_NAME}': (FISHER, choice) for name, choice in CHOICES.items()}}
THEIRS = (f'{PEER}, heads and MLPs',)


def network() -> Any:
    """Return the network with random weights."""
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=128, depth=6, num_heads=4, num_classes=10)
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


class Bench:
    """The data, and how everything is trained and tested.

    Args:
        folder (Path): Of the dense checkpoint and the results.
        computing (Computing): Where it is computed.
    """

    def __init__(self, folder: Path, computing: Computing) -> None:
        self.computing = computing
        self.folder, self.results = folder, folder / 'vit_cifar.jsonl'
        folder.mkdir(parents=True, exist_ok=True)
        cfg: Any = read_config(str(CONFIG))
        settings = plain(cfg.data_preprocessor)
        self.mean, self.std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ('mean', 'std'))
        root = Path(cfg.data_root)
        self.train, self.test = Images.read(root / 'train'), Images.read(root / 'test')

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return normalised images."""
        return self.computing.placed((pixels.float() - self.mean) / self.std)

    def labels(self, images: Images, some: Tensor) -> Tensor:
        """Return the classes of some images."""
        return self.computing.placed(images.labels[some])

    def fit(self, model: nn.Module, order: Tensor, epochs: int, rate: float, seed: int) -> None:
        """Train on the images of an order, cropped and flipped at random, with a rate that falls to zero."""
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
        steps = epochs * len(order.split(BATCH))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
        model.train()
        for epoch in range(epochs):
            for some in order[torch.randperm(len(order), generator=generator)].split(BATCH):
                inputs = self.inputs(augmented(self.train.pixels[some], generator))
                with self.computing.autocast(), sdpa_kernel(SDPBackend.MATH):
                    predicted = model(inputs)
                loss = functional.cross_entropy(predicted.float(), self.labels(self.train, some))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            print(f'epoch {epoch + 1} of {epochs}: loss {float(loss.detach()):.3f}', flush=True)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Return the top-1 accuracy on the test images, in per cent."""
        model.eval()
        right = sum(int((model(self.inputs(self.test.pixels[some])).argmax(1) == self.labels(self.test, some)).sum())
                    for some in torch.arange(len(self.test.labels)).split(500))
        return 100 * right / len(self.test.labels)

    def dense(self) -> nn.Module:
        """Return the dense network, which is trained once."""
        path, model = self.folder / CHECKPOINT, network()
        if not path.exists():
            torch.manual_seed(0)
            model = self.computing.placed(network())
            self.fit(model, torch.arange(len(self.train.labels))[order_of(0, self)[:DENSE]], DENSE_EPOCHS, 1e-3, 0)
            torch.save(dict(state=model.state_dict(), accuracy=self.accuracy(model)), path)
        model.load_state_dict(torch.load(path, map_location='cpu')['state'])
        return self.computing.placed(model).eval()

    def calibration(self, order: Tensor) -> List[Tuple[Tensor, Tensor]]:
        """Return images of an order with their classes, in batches."""
        return [(self.inputs(self.train.pixels[some]), self.labels(self.train, some))
                for some in order[:CALIBRATION].split(BATCH)]


def order_of(seed: int, bench: Bench) -> Tensor:
    """Return the order in which a seed takes the training images."""
    return torch.randperm(len(bench.train.labels), generator=torch.Generator().manual_seed(seed))


def ours(dense: nn.Module, criterion: Any, choice: Dict[str, Any],
         batches: List[Tuple[Tensor, Tensor]]) -> Tuple[nn.Module, float]:
    """Return a network cut in steps, and the share of the multiply-adds that is left."""
    model = copy.deepcopy(dense)
    whole = amount(Pruner(copy.deepcopy(dense), torch.zeros(SHAPE)).mutator.cost, 'flops')
    pruner = Pruner(model, torch.zeros(SHAPE), criterion, choice=choice, target=dict(
        flops=TARGET, scope='global', max_pruned_ratio=0.9))
    pruner.calibrate(batches, functional.cross_entropy)
    for step in range(1, STEPS + 1):
        pruner.cut(progress=step / STEPS)
    return model, amount(pruner.mutator.cost, 'flops') / whole


def theirs(dense: nn.Module, batches: List[Tuple[Tensor, Tensor]]) -> Tuple[nn.Module, float]:
    """Return a network cut by the peer: heads and MLPs, by its Taylor scores, to the same multiply-adds."""
    import torch_pruning
    for inputs, labels in batches:
        functional.cross_entropy(dense(inputs), labels).backward()
    gradients = [parameter.grad for parameter in dense.parameters()]
    found, low, high = None, 0.0, 1.0
    for _ in range(8):
        ratio, model = (low + high) / 2, copy.deepcopy(dense)
        for parameter, gradient in zip(model.parameters(), gradients):
            parameter.grad = gradient
        heads = {block.attn.qkv: block.attn.num_heads for block in model.blocks}
        stream = [model.patch_embed.proj, model.head, *(layer for block in model.blocks for layer in (
            block.attn.proj, block.mlp.fc2))]
        pruner = torch_pruning.pruner.BasePruner(
            model, dense.patch_embed.proj.weight.new_zeros(SHAPE), pruning_ratio=ratio, global_pruning=True,
            importance=torch_pruning.importance.GroupTaylorImportance(), ignored_layers=stream, num_heads=heads,
            prune_num_heads=True, prune_head_dims=False, head_pruning_ratio=ratio)
        pruner.step()
        for block in model.blocks:
            attention = block.attn
            attention.num_heads = pruner.num_heads[attention.qkv]
            attention.head_dim = attention.qkv.out_features // (3 * attention.num_heads)
            attention.attn_dim = attention.num_heads * attention.head_dim
        share = share_of(model, dense)
        low, high = (ratio, high) if share > TARGET else (low, ratio)
        if share <= TARGET and (found is None or share > found[1]):
            found = model, share
    dense.zero_grad()
    assert found is not None
    for parameter in found[0].parameters():
        parameter.grad = None
    return found


def share_of(model: nn.Module, dense: nn.Module) -> float:
    """Return the multiply-adds of a network, those of products too, over those of the dense one."""
    costs = [amount(Pruner(copy.deepcopy(one), torch.zeros(SHAPE), choice=dict(stream='whole')).mutator.cost, 'flops')
             for one in (model, dense)]
    return costs[0] / costs[1]


def piece(bench: Bench, name: str, seed: int) -> Dict[str, Any]:
    """Cut, test, train and test."""
    order, dense = order_of(seed + 1, bench), bench.dense()
    batches = bench.calibration(order)
    model, share = theirs(dense, batches) if name in THEIRS else ours(dense, *OURS[name], batches)
    pruned = bench.accuracy(model)
    bench.fit(model, order[CALIBRATION:CALIBRATION + FINETUNE], FINETUNE_EPOCHS, 5e-4, seed)
    return dict(name=name, seed=seed, share=share, pruned=pruned, finetuned=bench.accuracy(model),
                date=datetime.date.today().isoformat(), torch=torch.__version__, cpu=bench.computing.name)


def read(path: Path) -> List[Dict[str, Any]]:
    """Return the results."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def page(found: List[Dict[str, Any]], dense: float) -> str:
    """Return the page."""
    one = found[-1]
    lines = [
        '# A vision transformer at half of its multiply-adds', '',
        f'`MMPRUNE_DATA=... python benchmarks/vit_cifar.py --work-dir W`, {one["date"]}; {one["cpu"]}, 2 cores shared',
        f'with others, torch {one["torch"]}.', '',
        f'128 wide, 6 deep, 4 heads, patches of 4 x 4; trained on {DENSE:,} images of CIFAR-10 for {DENSE_EPOCHS}',
        f'epochs in bfloat16: {dense:.2f} % top-1 on the 10,000 test images. Cut by scores of {CALIBRATION:,} images',
        f"in {STEPS} steps, Taylor's where no other are named ({PEER}: in one), then {FINETUNE_EPOCHS} epochs of",
        f'{FINETUNE:,} images each, all alike; mean and range over seeds.', '',
        '| what goes | multiply-adds left | before training | finetuned | seeds |',
        '| --- | ---: | ---: | ---: | ---: |']
    for name in (*OURS, *THEIRS):
        rows = [row for row in found if row['name'] == name]
        if rows:
            values = [row['finetuned'] for row in rows]
            lines.append(f'| {name} | {rows[0]["share"]:.3f} | {statistics.mean(row["pruned"] for row in rows):.1f} | '
                         f'{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}) | {len(rows)} |')
    pairs = [(f'all kinds, {FISHER_NAME}', other) for other in (f'MLPs alone, {FISHER_NAME}', *THEIRS)]
    pairs.append(tuple(CHOICES))
    lines += ['', 'Differences of the same seeds, with their standard error:', '']
    lines += [f'- *{one}* less *{other}*: {difference(found, one, other, "pruned")} points before training, '
              f'{difference(found, one, other, "finetuned")} finetuned.' for one, other in pairs]
    return '\n'.join([*lines, ''])


def difference(found: List[Dict[str, Any]], one: str, other: str, key: str) -> str:
    """Return the mean of one way less another over the seeds that both have, and its standard error."""
    values = [{row['seed']: row[key] for row in found if row['name'] == name} for name in (one, other)]
    pairs = [values[0][seed] - values[1][seed] for seed in values[0] if seed in values[1]]
    return mean_and_error(pairs, 2, '+')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    computing.add_options(parser, amp=False)
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', default='*', help='pattern of names')
    parser.add_argument('--markdown', metavar='FILE', help='write the page, run nothing')
    args = parser.parse_args()
    if args.markdown:
        write_text(page(read(args.work_dir / 'vit_cifar.jsonl'), torch.load(args.work_dir / CHECKPOINT)['accuracy']),
                   args.markdown)
        return
    bench = Bench(args.work_dir, Computing.of(args)._replace(amp=True))
    bench.dense()
    for seed in args.seeds:
        for name in [one for one in (*OURS, *THEIRS) if fnmatch.fnmatch(one, args.only)]:
            if not any((row['name'], row['seed']) == (name, seed) for row in read(bench.results)):
                line = json.dumps(piece(bench, name, seed))
                print(line, flush=True)
                with bench.results.open('a') as file:
                    file.write(line + '\n')


if __name__ == '__main__':
    run(main)
