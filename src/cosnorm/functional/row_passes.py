"""The passes of `cosnorm.kernels.cpu_rows` in torch's operators: for float64, and where nothing is compiled.

The functions and what they return are the same; each looks at the data, and None says that the plain form
could be wrong.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.functional.norms import center, in_window, plain_rows, row_norms


def cosine_rows(
    x: Tensor, weight: Tensor, extra: float, folded: bool, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines, the products x·w (overwritten unless they are to be kept), and the factors (M + N, 1)."""
    of_x = plain_rows(x, centered=False, augment=extra**0.5)
    if of_x is None:
        return None
    of_w = None if folded else plain_rows(weight, centered=False, augment=extra**0.5)
    if of_w is None and not folded:
        return None
    factors = torch.cat([_ones(weight) if of_w is None else of_w.factor, of_x.factor])
    products = F.linear(x, weight)
    output = torch.empty_like(products) if keep else products
    return finish_rows(products, factors, extra, output), products, factors


def _ones(weight: Tensor) -> Tensor:
    return weight.new_ones((len(weight), 1))


def prepare_rows(x: Tensor, weight: Tensor, extra: float, folded: bool) -> tuple[Tensor, Tensor] | None:
    """The rows of x less their means, and the factors (M + N, 1); not folded, the means too, (2 M + N, 1)."""
    if folded:
        of_x = plain_rows(x, centered=True, augment=extra**0.5)
        return None if of_x is None else (of_x.values, torch.cat([_ones(weight), of_x.factor]))
    values, offset = center(x)
    norms = row_norms(values, x.dtype)
    mean = weight.mean(1, keepdim=True)
    squared, eaten = row_norms(weight, weight.dtype).square_(), mean.square() * weight.shape[1]
    constant = offset.abs_().mul_(64 * torch.finfo(x.dtype).eps * x.shape[1])
    if not bool((norms > constant).all()) or not bool((eaten <= squared / 2).all()):
        return None
    norms = torch.cat([squared.sub_(eaten).sqrt_(), norms])
    if not in_window(norms):
        return None
    if extra:
        norms = norms.square_().add_(extra).sqrt_()
    return (values, torch.cat([norms.reciprocal_(), mean])) if in_window(norms) else None


def center_rows(x: Tensor) -> Tensor:
    """The rows less their means."""
    return center(x)[0]


def finish_rows(products: Tensor, factors: Tensor, extra: float, output: Tensor) -> Tensor:
    """The cosines (products + extra) · factor_x · factor_w, into `output`, which may be the products."""
    rows, columns = products.shape
    factor_x = factors[columns : columns + rows]
    torch.mul(products, factor_x, out=output)
    if extra:
        output.add_(factor_x, alpha=extra)
    return output.mul_(factors[:columns].t()).clamp_(-1, 1)


def row_gradients(
    cotangent: Tensor,
    products: Tensor,
    factors: Tensor,
    x: Tensor,
    weight: Tensor,
    centered: bool,
    extra: float,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None] | None:
    """The gradients in x and in the weight, by h = g f_x f_w and its products with both."""
    rows, columns = products.shape
    buffer = cotangent.abs()
    # A sum of magnitudes is 0 only if all of them are: unlike squares they do not vanish.
    if in_window(torch.cat((buffer.sum(1), buffer.sum(0))), cotangent=True) is False:
        return None
    factor_w, factor_x = factors[:columns], factors[columns : columns + rows]
    h = (cotangent * factor_x).mul_(factor_w.t())
    torch.mul(h, products, out=buffer)
    if extra:
        buffer.add_(h, alpha=extra)
    into_x = into_w = None
    if needs[0]:
        into_x = x * buffer.sum(1, keepdim=True).mul_(factor_x).mul_(factor_x).neg_()
    if needs[1]:
        along = buffer.sum(0).unsqueeze_(1).mul_(factor_w).mul_(factor_w).neg_()
        into_w = weight * along
    if centered:
        mean = factors[columns + rows :]
        if into_x is not None:
            into_x -= h @ mean
        if into_w is not None:
            into_w -= mean * along
    if into_x is not None:
        into_x.addmm_(h, weight)
    if into_w is not None:
        into_w.addmm_(h.t(), x)
    return into_x, into_w
