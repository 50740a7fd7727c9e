"""One golden case: arrays by name, and comparisons that say by how much a number is off.

A case has inputs `in.*`, weights that replace the rule's `set.*`, and published numbers `out.*`. In the large set it is
an `.npz` with whole arrays; of a case of the small set (`published.py`) long arrays are there in samples.
Every number of a case must be compared: the harness fails a case that still has outputs nobody asked for.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Tolerances, as a share of max(1, the largest expected number)
NETWORK = 2e-5
OPERATOR = 1e-5
SEQUENCE_GRADIENT = 1e-3
RGNN = 1e-4


class Case:
    """Arrays as tensors; remembers which outputs were read and how far the comparisons were off."""

    def __init__(
        self, name: str, arrays: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        self.name = name
        self.off: dict[str, float] = {}
        """Largest deviation of each comparison, as a share of max(1, the largest expected number)."""
        self._arrays = dict(arrays)
        self._shapes = dict(shapes or {})
        """Whole shapes of the arrays that are there in samples."""
        self._unread = {key for key in self._arrays if key.startswith("out.")}

    @classmethod
    def load(cls, path: Path) -> "Case":
        """A case of the large set."""
        with np.load(path) as arrays:
            return cls(path.stem, {key: torch.from_numpy(arrays[key]) for key in arrays.files})

    def __getitem__(self, key: str) -> Tensor:
        assert key not in self._shapes, f"{self.name} {key}: only samples are here, compare them with close or same"
        self._unread.discard(key)
        return self._arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def shape(self, key: str) -> tuple[int, ...]:
        """Of the whole array; looking at it is not comparing it."""
        return self._shapes.get(key, tuple(self._arrays[key].shape))

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The inputs, without `in.`."""
        return self._under("in.")

    @property
    def overrides(self) -> dict[str, Tensor]:
        """Weights that replace the rule's, by official key."""
        return self._under("set.")

    @property
    def outputs(self) -> list[str]:
        """Keys of the published numbers, `out.` included; listing them is not comparing them."""
        return [key for key in self._arrays if key.startswith("out.")]

    @property
    def unread(self) -> list[str]:
        """Outputs that were never asked for."""
        return sorted(self._unread)

    def close(self, key: str, ours: Tensor, tolerance: float, where: Tensor | None = None) -> None:
        """Our tensor against the one under `key`, to a share of max(1, the largest expected number).

        Args:
            where: elements that mean something; the others are not compared. All, if None.
        """
        ours, expected = self._pair(key, ours)
        if where is not None:
            ours = torch.where(self._pair(key, where)[0], ours, expected.to(ours.dtype))
        self.off[key] = close(ours, expected, tolerance, f"{self.name} {key}")

    def same(self, key: str, ours: Tensor, share: float = 0.0) -> None:
        """Ids, classes, maps: equal in all but a share of the elements."""
        ours, expected = self._pair(key, ours)
        differ = (ours.to(expected.dtype) != expected).double().mean().item() if expected.numel() else 0.0
        self.off[key] = differ
        assert differ <= share, f"{self.name} {key}: {differ:.2%} of the elements differ, allowed {share:.2%}"

    def stats(self, key: str, ours: Tensor, tolerance: float) -> None:
        """Our whole tensor against a `*_stats` array: mean, population deviation, then samples."""
        self.close(key, stats(ours, len(self[key]) - 2), tolerance)

    def _pair(self, key: str, ours: Tensor) -> tuple[Tensor, Tensor]:
        """Ours and the expected tensor, both whole or both in samples."""
        _same_shape(ours, self.shape(key), f"{self.name} {key}")
        self._unread.discard(key)
        expected = self._arrays[key]
        return (ours.flatten()[places(ours.numel(), len(expected))] if key in self._shapes else ours), expected

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self._arrays.items() if key.startswith(prefix)}


def close(ours: Tensor, expected: Tensor, tolerance: float, what: str = "") -> float:
    """Assert `abs(ours - expected) <= tolerance * max(1, max abs(expected))`; the measured share comes back."""
    _same_shape(ours, tuple(expected.shape), what)
    if not expected.numel():
        return 0.0
    ours, expected = ours.detach().double(), expected.double()
    assert ours.isfinite().all(), f"{what}: {int((~ours.isfinite()).sum())} of our numbers are not finite"
    scale = max(1.0, expected.abs().max().item())
    difference = (ours - expected).abs()
    off = difference.max().item() / scale
    worst = int(difference.argmax())
    assert off <= tolerance, (
        f"{what}: off by {off:.1e} of the scale {scale:.3g}, allowed {tolerance:.0e}; at flat index {worst} "
        f"expected {expected.flatten()[worst].item():.6g}, got {ours.flatten()[worst].item():.6g}"
    )
    return off


def stats(tensor: Tensor, samples: int) -> Tensor:
    """Mean, population deviation and evenly spaced samples of a flattened tensor, the form of `*_stats` arrays."""
    flat = tensor.detach().contiguous().flatten().double()
    return torch.cat([flat.mean()[None], flat.std(correction=0)[None], flat[places(flat.numel(), samples)]])


def places(elements: int, samples: int) -> Tensor:
    """Evenly spaced indices from the first element to the last."""
    return torch.arange(samples) * (elements - 1) // (samples - 1)


def _same_shape(ours: Tensor, expected: tuple[int, ...], what: str) -> None:
    assert tuple(ours.shape) == expected, f"{what}: expected shape {expected}, got {tuple(ours.shape)}"
