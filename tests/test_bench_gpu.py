"""The benchmark of a GPU, on a machine that may have none."""

import re
import subprocess
import sys

import pytest
import torch

from .bench_gpu import TINY_OTHERS
from .conftest import REPOSITORY


def bench(*options: str) -> str:
    command = [sys.executable, "-m", "tests.bench_gpu", *options]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout


def test_the_tiny_benchmark_fills_every_line_of_its_table():
    said = bench("--tiny")
    assert "the numbers mean nothing" in said
    for stage in ("detector, 2 x 1", "tracker, 2 x 3"):
        assert re.search(rf"stage {stage} frames 64x96, bf16, 2 iterations +[\d.]+ it/s +[\d.]+ it/s +\d+%", said)
    assert re.search(r"whole schedule, 111960 \+ 94950 iterations .* [\d.]+ h \([\d.]+ \+ [\d.]+\)", said)
    assert re.search(r"inference 48x80, bf16, 2 videos side by side, encode and step +\d+ f/s", said)
    assert re.search(r"2 films 72x128, file to coded masks, one worker, bf16 +\d+ f/s  \(\d+ masks; decode \d+%", said)
    for recipe in TINY_OTHERS:
        pairs = rf"{recipe}, 2 pairs, (bf16|fp32), 2 iterations +[\d.]+ it/s +[\d.]+ it/s +\d+%"
        assert re.search(pairs + r"\n +inference 96x160, bf16, 2 videos side by side, encode and step +\d+ f/s", said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_says_so_and_invents_nothing():
    assert bench() == "no GPU that torch can use: nothing was measured\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_benchmark_measures_the_papers_schedule():
    said = bench()
    assert "stage tracker, 4 x 10 frames 480x864, bf16" in said
    assert "inference 384x640, bf16, 32 videos side by side" in said
