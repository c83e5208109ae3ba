"""Exported programs that run without this library."""

import torch

from cosnorm.operators.define import formulas


def decompose(program: "torch.export.ExportedProgram") -> "torch.export.ExportedProgram":
    """An exported program with torch's own operators in place of ours, for any runtime that can read them.

    `torch.export.export` keeps each cosine as one operator, which needs this library where the program runs.

    Args:
        program: what `torch.export.export` gave; it stays as it is.

    Returns:
        The same program in torch's operators alone; losses and sparse rows stay as they are. There is no
        float64 in it but for a model in float64, so that `torch.onnx.export(…, dynamo=True)` of it runs in
        other runtimes. In a convolution all fields of a sample share one scale there: a field whose numbers
        are below 1e-19 of the largest in its sample counts as zero.

    Raises:
        TypeError: `program` is no exported program, but for instance a model.

    Example:
        >>> import torch
        >>> from cosnorm.nn import CosineLinear
        >>> program = torch.export.export(CosineLinear(8, 3), (torch.randn(5, 8),))
        >>> any("cosnorm" in str(node.target) for node in decompose(program).graph.nodes)
        False
    """
    if not isinstance(program, torch.export.ExportedProgram):
        raise TypeError(
            f"decompose: program must be a torch.export.ExportedProgram, got {type(program).__name__}; "
            "torch.export.export(model, (example,)) makes one of a model"
        )
    return program.run_decompositions(formulas())
