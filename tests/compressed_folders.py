"""A folder such as `mmprune compress` leaves behind: plan, records of all stages, scalars, structure, files."""
import json
import math
import shutil
from pathlib import Path

import torch
from paths import TINY

from mmprune.deploy.onnx_export import export_onnx
from mmprune.models.from_config import mutator_from_config
from mmprune.report.stage_record import STAGES, CompressPlan, StageRecord, write_plan, write_record

SHAPE = (1, 3, 16, 16)
METRIC = 'accuracy/top1'
PLAN = dict(
    config='dense.py', checkpoint='dense.pth', target={'flops': 0.5}, metric=METRIC, input_shape=list(SHAPE),
    options={'epochs': 7, 'threads': 1, 'int8': True, 'images': 512}, versions={'torch': '2.13.0+cpu',
                                                                                'onnxruntime': '1.31.1'},
    machine='2 cores of an AMD EPYC')
#: Numbers of the records, as the page writes them; the widths of the structure are added by :func:`write_folder`.
NUMBERS = ['98.74', '397', '27,362,560', '13,614,688', '697,706', '163,611', '104,458', '85,818',
           '49.8 %', '23.4 %', '50.0 %', '91.44',
           '97.98', '97.73', '97.48', '7 epochs', '3.9e-07', '0.253 ms', '0.250 to 0.259', '0.184 ms', '0.180 to 0.188',
           '0.251 ms', '0.247 to 0.256', '0.182 ms', '0.179 to 0.185', '0.191 ms', '0.188 to 0.196', '0.141 ms',
           '0.139 to 0.144', '1 thread', '1.38', '1.78', 'QDQ', '12.5 s', '1 min 40 s', '1 h 50 min', '512',
           '2.13.0+cpu', '128', '99.999']


def times(median, first, third):
    return dict(median=median, first_quartile=first, third_quartile=third, threads=1)


def results():
    """Return stage -> result of a whole road."""
    cost = dict(dense=dict(macs=27362560, params=697706, acts=104458),
                pruned=dict(macs=13614688, params=163611, acts=85818))
    return {
        'dense': dict(metrics={METRIC: 98.7406}, images=397),
        'prune': dict(checkpoint='prune/flops_0.50.pth', structure='prune/fix_subnet.json', config='configs/prune.py',
                      reached=dict(flops=0.49757, params=0.2345), cost=cost, log='prune', metrics={METRIC: 91.4358}),
        'finetune': dict(checkpoint='finetune/epoch_7.pth', config='configs/finetune.py', epochs=7, log='finetune'),
        'test': dict(metrics={METRIC: 97.9849}),
        'deploy': dict(file='pruned.onnx', dense_file='dense.onnx', config='configs/deploy.py', difference=3.9e-07,
                       times=dict(dense=times(.2534, .2496, .2588), pruned=times(.1836, .1801, .1877))),
        'test-deployed': dict(metrics={METRIC: 97.7330}),
        'int8': dict(images=128, percentile=99.999, file='pruned_int8.onnx', format='QDQ',
                     left_in_float=['/head/fc/Gemm'],
                     times=dict(dense=times(.2512, .2471, .2561), pruned=times(.1822, .1790, .1851),
                                dense_int8=times(.1910, .1881, .1964), pruned_int8=times(.1411, .1389, .1441)),
                     metrics={METRIC: 97.4811}, float_metrics={METRIC: 97.7330})}


def write_scalars(folder: Path, prune: bool, started: str = '20261127_200000', first: int = 0) -> Path:
    """Write what mmengine writes of a run of 4 epochs of 10 iterations, and of the validations after them."""
    lines = []
    for step in range(first + 2, first + 41, 2):
        left = dict(flops_ratio=1 - step / 80, pruned_score=1.5, pruned_unit=2) if prune else {}
        lines.append(dict(lr=0.01, data_time=0.01, loss=2.5 * math.exp(-step / 20), time=0.02, **left,
                          epoch=1 + step // 11, iter=step, step=step))
        if step % 10 == 0:
            lines.append({METRIC: 90 + step / 10, 'data_time': 0.01, 'time': 0.02, 'step': step // 10})
    path = folder / started / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def write_stages(folder: Path, stages=STAGES, plan=None, **changes) -> None:
    """Write plan and records; ``changes`` are stage -> entries of its result that are different."""
    shutil.rmtree(folder / 'stages', ignore_errors=True)
    write_plan(CompressPlan(**{**PLAN, **(plan or {})}), folder)
    seconds = dict(dense=12.5, prune=6600.0, finetune=100.2)
    for stage in stages:
        result = {**results()[stage], **changes.get(stage.replace('-', '_'), {})}
        write_record(StageRecord(stage, [['mmprune', stage, 'a config.py', '--work-dir', stage]],
                                 seconds.get(stage, 3.25), '2026-11-27T20:00:00', result), folder)


def write_folder(folder: Path) -> dict:
    """Write a complete folder; return its structure."""
    (folder / 'dense.py').write_text(TINY.read_text())
    mutator, _ = mutator_from_config(str(folder / 'dense.py'), SHAPE)
    x = torch.zeros(SHAPE)
    export_onnx(mutator.model.eval(), x, folder / 'dense.onnx')
    structure = {unit.name: max(4, unit.width // 2 - number) for number, unit in enumerate(mutator.units)}
    mutator.apply_structure(structure)
    export_onnx(mutator.model, x, folder / 'pruned.onnx')
    shutil.copy(folder / 'pruned.onnx', folder / 'pruned_int8.onnx')
    for stage in ('prune', 'finetune'):
        write_scalars(folder / stage, stage == 'prune')
    (folder / 'prune' / 'fix_subnet.json').write_text(json.dumps(structure))
    write_stages(folder)
    return structure
