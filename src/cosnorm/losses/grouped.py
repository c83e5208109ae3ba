"""Losses over the processes of a group, which a module keeps by its name."""

from typing import Any

from torch import nn

from cosnorm.distributed import Group, name_of, resolve


class Grouped(nn.Module):
    """Has a `group` of `torch.distributed`, and stores its name: groups are neither copied nor pickled.

    So the module can be: deep copies, averages of weights and files find the group of that name again, in
    another program the one of that name there.
    """

    group_name: str | None = None

    @property
    def group(self) -> Group | None:
        """The process group, or None."""
        return None if self.group_name is None else resolve(self.group_name)

    @group.setter
    def group(self, group: Group | None) -> None:
        if isinstance(group, str):
            raise TypeError(f"{type(self).__name__}: group must be a process group, got the string {group!r}")
        self.group_name = name_of(type(self).__name__, group) or None


# What a loss over pairs may be told once, for every call; tensors go with the call.
FIXED = (
    "directions",
    "joint",
    "false_negative_threshold",
    "false_negative_margin",
    "hardness",
    "exchange",
)


def fixed_options(where: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options, or raise unless a loss can hold them."""
    for name in options:
        if name not in FIXED:
            raise TypeError(
                f"{where}: {name} is no option; there are {', '.join(FIXED)}, and tensors of a call"
            )
    return options
