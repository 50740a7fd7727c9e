"""The rule that gives every golden model its weights, from each tensor's published key and shape alone."""

from collections.abc import Iterable, Mapping
from math import prod, sqrt
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


def rule(key: str, shape: Iterable[int]) -> Tensor:
    """Normal numbers seeded by the key; matrices scaled by 1/sqrt(fan-in), norm scales about 1, the rest by 0.1."""
    shape = tuple(shape)
    leaf = key.split(".")[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.long)
    normal = np.random.RandomState(crc32(key.encode())).standard_normal(shape)
    if len(shape) > 1:
        value = normal * (1.0 / sqrt(prod(shape[1:])))
    elif leaf == "running_var":
        value = 1 + 0.1 * np.abs(normal)
    elif leaf == "weight":
        value = 1 + 0.1 * normal
    else:  # running means, biases and initial variances
        value = 0.1 * normal
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def checkpoint(shapes: Mapping[str, Iterable[int]], overrides: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole checkpoint by the rule; what a case sets replaces the rule's value."""
    unknown = set(overrides) - set(shapes)
    assert not unknown, f"the case sets weights that the model does not have: {sorted(unknown)}"
    return {key: overrides[key] if key in overrides else rule(key, shape) for key, shape in shapes.items()}


def noise(seed: int | Tensor, shape: Iterable[int | Tensor], scale: float | Tensor = 1.0) -> Tensor:
    """Normal numbers: the form in which large inputs are stored."""
    normal = np.random.RandomState(int(seed)).standard_normal(tuple(int(side) for side in shape))
    return torch.from_numpy((normal * float(scale)).astype(np.float32))
