"""Training steps as CUDA graphs; without a GPU they are the steps themselves."""

import dataclasses

import pytest
import torch
from test_lab_cnn import colours, config  # noqa: F401

import cosnorm_lab.tasks.cnn
from cosnorm_lab.fabric import make_fabric
from cosnorm_lab.tasks.captured import captured
from cosnorm_lab.tasks.cnn import CNNTask


def test_on_a_cpu_it_is_the_step_itself():
    def step() -> None: ...

    assert captured(step, torch.Generator(), make_fabric("cpu")) is step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("method", ["baseline", "cosine", "centered", "batch", "max"])
def test_a_graph_trains_as_the_steps_do(method, colours, monkeypatch):  # noqa: F811
    fabric = make_fabric("cuda")
    settings = dataclasses.replace(config(method, augmentation=True), seed=1)
    losses = []
    for patch in (False, True):
        if patch:
            monkeypatch.setattr(cosnorm_lab.tasks.cnn, "captured", lambda step, *_: step)
        task = CNNTask(settings, colours, fabric)
        losses.append([task.epoch(number) for number in (1, 2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
