"""Measure what a prune event costs beside the cut itself when ranks train together: DDP is built again.

python benchmarks/ddp_rewrap.py
python benchmarks/ddp_rewrap.py --ranks 2 --rounds 30 --json rewrap.json

Processes over gloo on this machine, each with the prune config's model. In turns: DDP built again as a prune event does
it (without the broadcast of the model, since the ranks have just made the same cut), and as torch does it by default.
"""
import argparse
import copy
import datetime
import os
import socket
import statistics
import time
from pathlib import Path
from typing import Any, Dict, List

import torch
import torch.multiprocessing as multiprocessing
from mmengine.registry import MODELS, init_default_scope
from torch.nn.parallel import DistributedDataParallel

from mmprune.command_line import emit_json, run
from mmprune.config import plain
from mmprune.engine.distributed import GroupFisherDDP
from mmprune.models.from_config import read_config

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT / 'configs/mmcls/group_fisher/resnet50/group_fisher_act_prune_resnet50_8xb32_in1k.py'
WAYS = ('rewrap_ms', 'with_broadcast_ms')


def rank_main(rank: int, args: argparse.Namespace, port: int, results: Any) -> None:
    """Measure in one process; rank 0 puts its times into ``results``."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo' if args.device == 'cpu' else 'nccl', rank=rank, world_size=args.ranks,
                                         init_method=f'tcp://127.0.0.1:{port}')
    cfg = read_config(args.config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    if args.device == 'cpu':
        wrapped = GroupFisherDDP(MODELS.build(model))
    else:
        torch.cuda.set_device(rank)
        wrapped = GroupFisherDDP(MODELS.build(model).cuda(), device_ids=[rank])
    options: Dict[str, Any] = copy.copy(wrapped._options)
    times: Dict[str, List[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds + 1):
        for way in WAYS:
            torch.distributed.barrier()
            began = time.perf_counter()
            if way == 'rewrap_ms':
                with wrapped.released():
                    pass
            else:
                wrapped.reducer = wrapped.logger = None
                DistributedDataParallel.__init__(wrapped, wrapped.module, **options)
                wrapped._options = options
            times[way].append(1000 * (time.perf_counter() - began))
    if rank == 0:
        results.put({way: several[1:] for way, several in times.items()})
    del wrapped  # torch may hang if the last to hold the group's threads is DDP, which is freed under the GIL
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return int(sock.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=str(DEFAULT), help='prune config (ResNet-50)')
    parser.add_argument('--ranks', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='cuda: a rank has a GPU, over nccl')
    parser.add_argument('--json', help='file for the numbers, - for stdout')
    args = parser.parse_args()
    context = multiprocessing.get_context('spawn')
    results = context.SimpleQueue()
    multiprocessing.spawn(rank_main, (args, free_port(), results), args.ranks)
    times = results.get()
    print(f'{args.ranks} ranks, {args.rounds} rounds, ms, median (least-most)')
    for way, several in times.items():
        print(f'{way:<18} {statistics.median(several):7.2f} ({min(several):.2f}-{max(several):.2f})')
    if args.json:
        emit_json(dict(times=times, ranks=args.ranks, date=datetime.date.today().isoformat(), torch=torch.__version__,
                       load=os.getloadavg()[0]), args.json)


if __name__ == '__main__':
    run(main)
