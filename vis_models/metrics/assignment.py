"""The best one-to-one assignment of rows to columns, exactly.

Source: shortest augmenting paths with dual prices, as laid out by Crouse, "On implementing 2D rectangular assignment
algorithms", IEEE Transactions on Aerospace and Electronic Systems 52 (2016). One row after another enters; it takes the
column at the end of the cheapest chain of re-assignments. O(rows^2 columns), and the rows and columns of one frame are
few. Importing scipy for it would add 37 MB to every process that scores, an eighth of what it may take.

Several assignments can be best, and tracking metrics depend on which of them is taken, so the choice is part of the
definition. It is that of `scipy.optimize.linear_sum_assignment`, which TrackEval uses: the shorter side enters row by
row; columns wait in a list, at first from last to first; of equally cheap ones the last free one in the list is taken,
or, if none is free, the first; its place in the list goes to the column at the end of the list.

Axes: R rows, C columns, N pairs.
"""

import numpy as np
from jaxtyping import Float, Int


def assign(gain: Float[np.ndarray, "R C"]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """(rows, columns) of the pairs with the largest sum of gains, by ascending row; pairs without a gain are left out.

    Args:
        gain: not negative.
    """
    paired = gain > 0
    rows, columns = np.nonzero(paired)
    if len(set(rows.tolist())) == len(rows) == len(set(columns.tolist())):
        return rows, columns  # nobody competes
    if gain.shape[0] > gain.shape[1]:
        columns, rows = _cheapest(-gain.T)
        order = np.argsort(rows)
        rows, columns = rows[order], columns[order]
    else:
        rows, columns = _cheapest(-gain)
    worth = paired[rows, columns]
    return rows[worth], columns[worth]


def _cheapest(cost: Float[np.ndarray, "R C"]) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
    """Each row and its column; there are at least as many columns as rows."""
    row_price, column_price = np.zeros(cost.shape[0]), np.zeros(cost.shape[1])
    row_of = np.full(cost.shape[1], -1)
    column_of = np.full(cost.shape[0], -1)
    for entering in range(cost.shape[0]):
        length, came_from, settled = _cheapest_chain(cost, row_price, column_price, row_of, entering)
        column = settled[-1]
        row_price[entering] += length[column]
        row_price[row_of[settled[:-1]]] += length[column] - length[settled[:-1]]
        column_price[settled] -= length[column] - length[settled]
        row = -1
        while row != entering:  # backwards along the chain: each row leaves its column to the row before it
            row = came_from[column]
            row_of[column] = row
            column_of[row], column = column, column_of[row]
    return np.arange(cost.shape[0]), column_of


def _cheapest_chain(
    cost: Float[np.ndarray, "R C"],
    row_price: Float[np.ndarray, " R"],
    column_price: Float[np.ndarray, " C"],
    row_of: Int[np.ndarray, " C"],
    entering: int,
) -> tuple[Float[np.ndarray, " C"], Int[np.ndarray, " C"], list[int]]:
    """Dijkstra from a row to the nearest free column.

    Returns:
        Cost of the chain to each column; the row before it; the columns passed, in order, a free one at the end.
    """
    length = np.full(cost.shape[1], np.inf)
    came_from = np.full(cost.shape[1], -1)
    waiting = np.arange(cost.shape[1])[::-1].copy()
    settled: list[int] = []
    row, so_far = entering, 0.0
    while True:
        reached = so_far + cost[row, waiting] - row_price[row] - column_price[waiting]
        shorter = reached < length[waiting]
        length[waiting[shorter]] = reached[shorter]
        came_from[waiting[shorter]] = row
        so_far = length[waiting].min()
        nearest = np.flatnonzero(length[waiting] == so_far)
        free = nearest[row_of[waiting[nearest]] < 0]
        place = int(free[-1] if len(free) else nearest[0])
        column = int(waiting[place])
        settled.append(column)
        if len(free):
            return length, came_from, settled
        row = int(row_of[column])
        waiting[place] = waiting[-1]
        waiting = waiting[:-1]
