"""Devices, precision and processes: Lightning Fabric, set up from a few names."""

import torch
import torch.distributed
from lightning_fabric import Fabric

from cosnorm_lab.errors import LabError


def resolved(device: str) -> str:
    """The accelerator that "auto" stands for on this machine; any other name as it is.

    Raises:
        LabError: torch sees no such accelerator.
    """
    there = {"cuda": torch.cuda.is_available, "gpu": torch.cuda.is_available}
    there["mps"] = torch.backends.mps.is_available
    if device in there and not there[device]():
        raise LabError(
            f"cannot use --device {device}: torch {torch.__version__} sees no such device; leave it out"
        )
    if device != "auto":
        return "cuda" if device == "gpu" and torch.cuda.is_available() else device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def make_fabric(
    device: str = "cpu", devices: int = 1, num_nodes: int = 1, precision: str = "32-true"
) -> Fabric:
    """A launched Fabric; one serves all the runs of a program.

    On a GPU it also tells this process's cuDNN to search for the fastest convolutions, and not to round those
    of "32-true" to 10 bits, as torch does by default.

    With more than one process this starts the others; each of them runs the program from its beginning.

    Args:
        device: Fabric's name of an accelerator: "cpu", "cuda", "mps", or "auto" for the best there is.
        devices: processes on each machine.
        num_nodes: number of machines; start the program on each, see Lightning Fabric for the environment.
        precision: "32-true", "16-mixed", "bf16-mixed", "bf16-true" or "64-true".

    Raises:
        LabError: the machine has no such device, or Fabric knows no such name.
    """
    device = resolved(device)
    torch.backends.cudnn.allow_tf32 = not precision.startswith("32")
    torch.backends.cudnn.benchmark = True  # the sizes of a run never change
    strategy = "ddp" if devices * num_nodes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type, unused-ignore]  # Fabric checks the name
        )
    except Exception as error:  # Fabric raises many kinds, all about these arguments
        raise LabError(
            f"cannot use --device {device} --devices {devices} --num-nodes {num_nodes} "
            f"--precision {precision}: {error}"
        ) from error
    fabric.launch()
    return fabric


def close_fabric(fabric: Fabric) -> None:
    """Waits for the other processes and takes leave of them; nothing to do for one process.

    Without it a process may abort at its exit, in the middle of the group's background threads.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        fabric.barrier()
        torch.distributed.destroy_process_group()
