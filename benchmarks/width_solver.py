"""Measure how long the choice of widths under budgets takes, and how much of the scores could be missing.

python benchmarks/width_solver.py
python benchmarks/width_solver.py --seeds 5 --json widths.json

Random problems of the shape of networks, to keep the most of the scores at half of the cost. *of bound*: the least
score over the upper bound on it. It has to be 0.995 or more; a residual network has to take a second at most.
"""
import argparse
import sys
import time
from pathlib import Path
from typing import Any, Dict

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests'))
from width_problems import clique, densely_connected, residual_network, wide_problem

from mmprune.command_line import emit_json, run
from mmprune.latency.solver import solve

LEAST_OF_BOUND, MOST_SECONDS = 0.995, 1.0
SHAPES = {'ResNet-50': residual_network(), 'six units of 32 levels, all tied': clique(6, 32),
          'DenseNet of 120 units of 4 levels': densely_connected(120, 4)}


def measure(shape: str, budgets: int, seeds: int) -> Dict[str, Any]:
    """Return the longest time and the least share of the bound over some problems."""
    seconds, shares, exact = [], [], 0
    for seed in range(seeds):
        problem = wide_problem(*SHAPES[shape], seed=seed, budgets=budgets)
        began = time.perf_counter()
        found = solve(problem)
        seconds.append(time.perf_counter() - began)
        shares.append(found.score / found.bound)
        exact += found.exact
    return dict(shape=shape, units=len(SHAPES[shape][0]), budgets=budgets, seconds=max(seconds), of_bound=min(shares),
                exact=exact, problems=seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=3, help='problems of each shape')
    parser.add_argument('--json', help='write the numbers here')
    args = parser.parse_args()
    print('| shape | units | budgets | longest, s | of bound | proven best |\n| --- | --: | --: | --: | --: | --: |')
    rows = []
    for shape in SHAPES:
        for budgets in (1, 2):
            rows.append(measure(shape, budgets, args.seeds))
            row = rows[-1]
            print(f"| {shape} | {row['units']} | {budgets} | {row['seconds']:.2f} | {row['of_bound']:.6f} | "
                  f"{row['exact']} of {row['problems']} |", flush=True)
    missed = [row for row in rows if row['of_bound'] < LEAST_OF_BOUND
              or (row['shape'] == 'ResNet-50' and row['seconds'] > MOST_SECONDS)]
    print(f'{len(rows) - len(missed)} of {len(rows)} hold the bars')
    if args.json:
        emit_json(dict(rows=rows), args.json)


if __name__ == '__main__':
    run(main)
