"""Problems of widths, random but for their seed, and the same problems as mixed-integer programs for HiGHS."""
import itertools

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_matrix

from mmprune.latency.widths import Cost, WidthProblem

#: Channels that a runtime computes together.
BLOCK = 16


def small_edges(kind, units, random):
    """Return which units a small network has together: in a chain, around a residual hub, or behind a concat."""
    if kind == 'chain':
        return [(unit, unit + 1) for unit in range(units - 1)]
    if kind == 'hub':  # unit 0 is the stream; blocks of two units read and write it
        return sorted({(0, unit) for unit in range(1, units)} | {(unit, unit + 1) for unit in range(1, units - 1, 2)})
    joined = int(random.randint(2, units))  # a layer behind a concat reads all of them; they are tied by its reorder
    tied = [(one, two) for one in range(joined) for two in range(one + 1, joined)] if random.rand() < 0.5 else []
    return tied + [(unit, joined) for unit in range(joined)] + [(unit, unit + 1) for unit in range(joined, units - 1)]


def small_problem(seed, budgets=1, units=(3, 8), levels=(2, 8)):
    """Return a problem of staircase costs and scores that grow ever less, of any scales.

    Costs are whole numbers of hundredths, so that many choices cost the same.
    """
    random = np.random.RandomState(seed)
    count = int(random.randint(units[0], units[1] + 1))
    sizes = random.randint(levels[0], levels[1] + 1, count)
    edges = small_edges(('chain', 'hub', 'concat')[seed % 3], count, random)
    widths = [np.arange(1, size + 1) * int(random.choice([4, 8, 16, 24])) for size in sizes]
    stairs = [np.ceil(width / BLOCK) * BLOCK for width in widths]
    scores = [random.uniform(0.1, 3) * np.cumsum(np.sort(random.gamma(0.7, 1, size))[::-1]) for size in sizes]
    costs = []
    for _ in range(budgets):
        unary = [np.round(random.uniform(0, 3) * stair, 2) for stair in stairs]
        pairs = {edge: np.round(random.uniform(0, 0.05) * np.outer(stairs[edge[0]], stairs[edge[1]]), 2)
                 for edge in edges}
        costs.append(with_budget(Cost(float(random.randint(20)), unary, pairs, 0.0), sizes, random.uniform(0.1, 0.9)))
    return WidthProblem([f'unit{number}' for number in range(count)], scores, costs)


def with_budget(cost, sizes, share):
    """Give a cost a share of the way from the least to the most as its budget, off every sum of hundredths."""
    least, most = cost.total([0] * len(sizes)), cost.total([size - 1 for size in sizes])
    cost.budget = float(np.round(least + share * (most - least), 2)) + 0.005
    return cost


def wide_problem(sizes, edges, seed, budgets=1, share=0.5):
    """Return a problem of costs ``a + b reads + c writes + d reads writes`` over all edges, in whole blocks."""
    random = np.random.RandomState(seed)
    widths = [BLOCK * np.arange(1, size + 1) for size in sizes]
    scores = [random.uniform(0.3, 3) * np.cumsum(np.sort(random.gamma(0.7, 1, size))[::-1]) for size in sizes]
    costs = []
    for _ in range(budgets):
        unary = [random.uniform(0, 2e-2) * width for width in widths]
        pairs = {(one, two): random.uniform(2e-6, 1e-5) * np.outer(widths[one], widths[two]) for one, two in edges}
        cost = Cost(1.0, unary, pairs, 0.0)
        cost.budget = share * cost.total([size - 1 for size in sizes])
        costs.append(cost)
    return WidthProblem([str(unit) for unit in range(len(sizes))], scores, costs)


def residual_network():
    """Return levels and edges of the shape of ResNet-50: four streams and a stem, sixteen blocks of two inner units."""
    sizes, edges = [16, 32, 64, 128, 4], {(0, 4)}
    for stage, count in enumerate([3, 4, 6, 3]):
        for block in range(count):
            first, second = len(sizes), len(sizes) + 1
            sizes += [sizes[stage] // 4] * 2
            reads = stage if block else (stage - 1 if stage else 4)
            edges |= {(reads, first), (first, second), (stage, second)} | ({(stage - 1, stage)} if stage else set())
    return sizes, sorted(edges)


def clique(units, levels):
    """Return levels and edges of units all of which are read together."""
    return [levels] * units, list(itertools.combinations(range(units), 2))


def densely_connected(units, levels):
    """Return levels and edges where every second unit reads all before it, as in DenseNet."""
    return [levels] * units, [(one, two) for one, two in itertools.combinations(range(units), 2)
                              if two == one + 1 or (two % 2 and not one % 2)]


def every_choice(problem):
    """Return all choices of a problem."""
    return itertools.product(*(range(len(kept)) for kept in problem.scores))


def highs(problem, prices=None):
    """Return the best choice by mixed-integer programming, or None if there is none.

    One variable a level, one a pair of levels; the pairs of a level add up to it. With ``prices`` the costs are
    subtracted from the scores, else they are budgets.
    """
    sizes = [len(kept) for kept in problem.scores]
    starts = np.cumsum([0, *sizes])
    columns = {}  # edge -> ndarray[levels, levels] of the numbers of variables
    count = int(starts[-1])
    for edge in problem.edges:
        shape = [sizes[unit] for unit in edge]
        columns[edge] = count + np.arange(np.prod(shape)).reshape(shape)
        count += columns[edge].size
    rows, right = [], []
    for start, size in zip(starts, sizes):
        rows.append([(column, 1.0) for column in range(start, start + size)])
        right.append(1.0)
    for edge, numbers in columns.items():
        for unit, table in zip(edge, (numbers, numbers.T)):
            for level, both in enumerate(table):
                rows.append([(starts[unit] + level, -1.0), *((column, 1.0) for column in both)])
                right.append(0.0)
    entries = [(row, column, value) for row, found in enumerate(rows) for column, value in found]
    rows_of, columns_of, values = zip(*entries)
    constraints = [LinearConstraint(coo_matrix((values, (rows_of, columns_of)), (len(rows), count)), right, right)]
    gain = np.zeros(count)
    gain[:starts[-1]] = np.concatenate(problem.scores)
    for number, cost in enumerate(problem.costs):
        spent = np.zeros(count)
        spent[:starts[-1]] = np.concatenate(cost.unary)
        for edge, terms in cost.pairs.items():
            spent[columns[edge]] = terms
        if prices is None:
            constraints.append(LinearConstraint(spent[None], -np.inf, cost.budget - cost.constant))
        else:
            gain -= prices[number] * spent
    found = milp(-gain, integrality=np.ones(count), bounds=(0, 1), constraints=constraints,
                 options=dict(mip_rel_gap=0))
    if found.x is None:
        return None
    return [int(found.x[start:start + size].argmax()) for start, size in zip(starts, sizes)]
