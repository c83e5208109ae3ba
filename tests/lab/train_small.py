"""A training on small official-format files, as a program of its own: for tests that kill it or split it.

Usage: python train_small.py DATA OUT METHOD EPOCHS PROCESSES [BATCH_SIZE]
"""

import sys
from pathlib import Path

import torch

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.data import load
from cosnorm_lab.fabric import close_fabric, make_fabric
from cosnorm_lab.tasks import mlp  # noqa: F401  (loaded before it says "begin")
from cosnorm_lab.train import train


def configuration(method: str, epochs: int, batch_size: int = 10) -> MLPConfig:
    """The run, which the tests name too."""
    rate = 1.0 if method in ("cosine", "centered") else 0.1
    return MLPConfig(
        recipe="small",
        dataset="mnist",
        method=method,
        hidden=(32, 32),
        learning_rate=rate,
        epochs=epochs,
        batch_size=batch_size,
        max_norm=0.5,
    )


if __name__ == "__main__":
    data, out, method, epochs, processes, *batch_size = sys.argv[1:]
    torch.set_num_threads(1)
    config = configuration(method, int(epochs), *map(int, batch_size))
    dataset = load("mnist", data, allow_checksum_mismatch=True)
    print("begin", flush=True)
    fabric = make_fabric("cpu", int(processes))
    train(config, dataset, Path(out), fabric=fabric, keep_checkpoint=True)
    close_fabric(fabric)
