"""A part at a time: what hundreds of objects ask of the memory is what some of them do."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(work: Callable[..., tuple[Tensor, ...]], most: int, *rows: Tensor) -> tuple[Tensor, ...]:
    """What `work` says of all rows, each of which it looks at alone.

    Of more than `most` it is asked in turn, and where gradients are wanted what lies between its arguments and its
    answer is not kept, but counted again on the way back.

    Args:
        rows: one or more, of equal length.
    """
    if len(rows[0]) <= most:
        return work(*rows)
    parts = zip(*(each.split(most) for each in rows), strict=True)
    if torch.is_grad_enabled():
        said = [checkpoint(work, *part, use_reentrant=False) for part in parts]
    else:
        said = [work(*part) for part in parts]
    return tuple(torch.cat(each) for each in zip(*said, strict=True))
