"""Training loops of others: Lightning, and torch's DistributedDataParallel on two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cosnorm.losses import ArcFaceLoss
from cosnorm.nn import CosineLinear, MaxNorm

ROWS, SIZE, CLASSES = 24, 6, 4


def model() -> nn.Module:
    torch.manual_seed(0)
    options = {"centered": True, "scale": "unit", "bias": True}
    return nn.Sequential(
        CosineLinear(SIZE, 16, **options), nn.ReLU(), CosineLinear(16, 8, scale="learned"), nn.ReLU()
    )


def head() -> ArcFaceLoss:
    torch.manual_seed(1)
    return ArcFaceLoss(CLASSES, 8, scale=8.0)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(ROWS, SIZE, generator=generator), torch.arange(ROWS) % CLASSES


def plain_loop(steps: int) -> dict[str, torch.Tensor]:
    """The parameters after so many steps on the whole batch."""
    network, loss = model(), head()
    both = nn.ModuleList([network, loss])
    optimizer = torch.optim.SGD(both.parameters(), 0.1)
    MaxNorm(loss, 1.5).attach(optimizer)
    rows, labels = data()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(rows), labels).backward()
        optimizer.step()
    return both.state_dict()


def test_lightning(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.ModuleList([model(), head()])

        def training_step(self, batch, _):
            rows, labels = batch
            loss = self.both[1](self.both[0](rows), labels)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            MaxNorm(self.both[1], 1.5).attach(optimizer)
            return optimizer

    module = Module()
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=ROWS)
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, batches)
    expected = plain_loop(3)
    for name, value in module.both.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    saved = next(Path(tmp_path).rglob("*.ckpt"))
    again = Module.load_from_checkpoint(saved)
    assert all(torch.equal(one, module.state_dict()[name]) for name, one in again.state_dict().items())


def test_distributed_data_parallel(tmp_path):
    """Two processes, half of the batch each, end with the parameters of one."""
    running = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [one.wait(120) for one in running] == [0, 0]
    expected = plain_loop(3)
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(value, expected[name])


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    both = nn.ModuleList([model(), head()])
    network, loss = (nn.parallel.DistributedDataParallel(one) for one in both)
    optimizer = torch.optim.SGD(both.parameters(), 0.1)
    MaxNorm(both[1], 1.5).attach(optimizer)
    rows, labels = (one[rank::2] for one in data())
    for _ in range(3):
        optimizer.zero_grad()
        loss(network(rows), labels).backward()
        optimizer.step()
    torch.save(both.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
