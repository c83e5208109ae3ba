"""Training steps as CUDA graphs; without a GPU they are the steps themselves."""

import pytest
import torch
import torch.nn.functional as F
from test_lab_cnn import config

import cosnorm.nn
import cosnorm_lab.tasks.cnn
from cosnorm_lab.fabric import make_fabric
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.models import cnn
from cosnorm_lab.tasks.captured import captured
from cosnorm_lab.tasks.cnn import CNNTask


def test_on_a_cpu_it_is_the_step_itself():
    def step() -> None: ...

    assert captured(step, torch.Generator(), make_fabric("cpu")) is step


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_off_a_cpu_no_method_looks_at_its_data(method):
    """A graph has no place for a decision by data; tensors of the device "meta" have none to look at."""
    network = cnn((3, 24, 24), (6, 8), (16, 12), 4, method).to("meta")
    labels = torch.zeros(16, dtype=torch.long, device="meta")
    F.cross_entropy(network(torch.empty(16, 3, 24, 24, device="meta")), labels).backward()
    if method == "max":
        cosnorm.nn.MaxNorm(network, max_norm=2.0).project()
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learned)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_a_graph_trains_as_the_steps_do(method, colours, monkeypatch):
    fabric = make_fabric("cuda")
    losses = []
    for eager in (False, True):
        if eager:
            monkeypatch.setattr(cosnorm_lab.tasks.cnn, "captured", lambda step, *_: step)
        task = CNNTask(config(method, augmentation=True), colours, fabric)
        losses.append([task.epoch(number) for number in (1, 2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
