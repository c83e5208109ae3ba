"""Trainings of every method on small official-format files, on several processes: for tests that split them.

Usage: python train_small.py DATA OUT PROCESSES
"""

import sys
from pathlib import Path

import torch

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.data import load
from cosnorm_lab.fabric import close_fabric, make_fabric
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.train import train

BATCH_STATISTICS = ("batch", "mean-only")
BATCH = 25  # 500 images: 20 steps an epoch; odd, so that the two parts of a batch are uneven


def configuration(method: str) -> MLPConfig:
    """The run, which the tests name too."""
    return MLPConfig(
        recipe="small",
        dataset="mnist",
        method=method,
        hidden=(32, 32),
        learning_rate=1.0 if method in ("cosine", "centered") else 0.1,
        epochs=3 if method in BATCH_STATISTICS else 1,
        batch_size=BATCH,
        max_norm=0.5,
    )


if __name__ == "__main__":
    data, out, processes = sys.argv[1:]
    torch.set_num_threads(1)
    dataset = load("mnist", data, allow_checksum_mismatch=True)
    fabric = make_fabric("cpu", int(processes))
    for method in NORMALIZATIONS:
        train(configuration(method), dataset, Path(out), fabric=fabric, keep_checkpoint=True)
    close_fabric(fabric)
