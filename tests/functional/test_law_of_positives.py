"""The law of positives: every combination of options against a dense float64 formula from the definition."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_contrastive import compare
from torch import Tensor
from torch.nn import functional as F

from cosnorm.functional import contrastive_cross_entropy, pairwise_sigmoid_loss
from cosnorm.operators.pair_options import DIRECTIONS

N, M, E, K, D, G = 7, 9, 4, 3, 5, 4
# Smaller gradients are differences of what is nearly 1: a rounding of the logits, over the temperature.
FLOOR = 1e-2


def unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.double(), dim=-1, eps=0)


def normalized(weights: Tensor) -> Tensor:
    sums = weights.sum(1, keepdim=True)
    return weights / sums.where(sums > 0, 1)


def linked(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Which queries, and which keys, hang together by positives: powers of the adjacency matrix."""
    one = (weights > 0).double()
    size = sum(one.shape)
    both = torch.eye(size, dtype=torch.float64)
    both[: len(one), len(one) :] = one
    both[len(one) :, : len(one)] = one.T
    reached = torch.linalg.matrix_power(both, size) > 0
    return reached[: len(one), : len(one)], reached[len(one) :, len(one) :]


class Dense:
    """The definition, with whole matrices; `weights` (N, M) are those of the positives, not averaged."""

    def __init__(self, weights: Tensor, options: dict[str, Any]) -> None:
        self.weights, self.options = weights, options

    def leaves(self, cosines: Tensor, average: Tensor, guided: Tensor | None, same: Tensor | None) -> Tensor:
        """Who is no negative, by groups, threshold, margin and guide; (rows, columns)."""
        options, positive = self.options, average > 0
        out = torch.zeros_like(positive) if same is None else same
        decides = cosines if guided is None else guided
        threshold, margin = options.get("false_negative_threshold"), options.get("false_negative_margin")
        if guided is not None and threshold is None and margin is None:
            margin = 0.0
        if threshold is not None:
            out = out | (decides > threshold)
        if margin is not None:
            out = out | (decides > (decides * average).sum(1, keepdim=True) + margin)
        return out & ~positive

    def sums(self, direction: str, rows: dict[str, Tensor], scale: Tensor) -> Tensor:
        """The log of what each anchor sums in a direction."""
        options, (kind, other) = self.options, direction.split("_to_")
        within = kind == other
        average = normalized(self.weights if kind == "query" else self.weights.T)
        x, y = rows[kind], rows[other]
        if direction == "query_to_key" and "extra" in rows:
            y = torch.cat([y, rows["extra"]])
        positive = torch.zeros(len(x), len(y), dtype=torch.float64)
        if not within:
            positive[:, : average.shape[1]] = average
        cosines = x @ y.T
        same = self.paired("groups", direction)
        guided = self.guided(kind, other, direction, rows)
        bound = average if within else positive
        out = self.bounded(direction, kind, rows, cosines, positive, guided, same, bound)
        if within:
            labels = self.paired("labels", direction)
            out = out | (linked(self.weights)[kind == "key"] if labels is None else labels)
            out = out | torch.eye(len(x), dtype=torch.bool)
        elif options.get("exclude_self"):
            out = out | torch.eye(len(x), len(y), dtype=torch.bool)
        if not within and options.get("exclude") is not None:
            out = out | (options["exclude"] if kind == "query" else options["exclude"][:, :M].T)
        if options.get("decoupled"):
            out = out | (positive > 0)
        logits = scale * cosines + options.get("hardness", 0.0) * torch.where(
            positive > 0, 0, cosines.detach()
        )
        logits = logits.masked_fill(out, -torch.inf)
        if direction == "query_to_key" and "hard" in rows:
            logits = torch.cat([logits, self.hard(rows, scale, average)], 1)
        return logits.logsumexp(1)

    def guided(self, kind: str, other: str, direction: str, rows: dict[str, Tensor]) -> Tensor | None:
        """The guide's cosines."""
        if self.options.get("guide") is None:
            return None
        guides = dict(zip(("query", "key"), map(unit, self.options["guide"]), strict=True))
        others = guides[other]
        if direction == "query_to_key" and "extra" in rows:
            others = torch.cat([others, unit(self.options["extra_guide"])])
        return guides[kind] @ others.T

    def bounded(self, direction, kind, rows, cosines, positive, guided, same, average) -> Tensor:
        """As `leaves`; within a kind the bound is that of the anchor's own positives, of the other kind."""
        if kind != direction.split("_to_")[1]:
            return self.leaves(cosines, positive, guided, same)
        options = self.options
        other = "key" if kind == "query" else "query"
        decides, own = cosines, (rows[kind] * (average @ rows[other])).sum(1)
        if guided is not None:
            guides = dict(zip(("query", "key"), map(unit, options["guide"]), strict=True))
            decides, own = guided, (guides[kind] * (average @ guides[other])).sum(1)
        threshold, margin = options.get("false_negative_threshold"), options.get("false_negative_margin")
        if guided is not None and threshold is None and margin is None:
            margin = 0.0
        out = torch.zeros_like(cosines, dtype=torch.bool) if same is None else same
        if threshold is not None:
            out = out | (decides > threshold)
        return out if margin is None else out | (decides > own.unsqueeze(1) + margin)

    def hard(self, rows: dict[str, Tensor], scale: Tensor, average: Tensor) -> Tensor:
        options = self.options
        cosines = (rows["query"].unsqueeze(1) * rows["hard"]).sum(2)
        logits = scale * cosines + options.get("hardness", 0.0) * cosines.detach()
        if options.get("guide") is not None:
            return logits
        own = (rows["query"] * (average @ rows["key"])).sum(1, keepdim=True)
        out = torch.zeros_like(cosines, dtype=torch.bool)
        if options.get("false_negative_threshold") is not None:
            out = out | (cosines > options["false_negative_threshold"])
        if options.get("false_negative_margin") is not None:
            out = out | (cosines > own + options["false_negative_margin"])
        return logits.masked_fill(out, -torch.inf)

    def paired(self, name: str, direction: str) -> Tensor | None:
        """Whose labels or groups are equal."""
        if self.options.get(name) is None:
            return None
        given = dict(zip(("query", "key"), self.options[name], strict=True))
        kind, other = direction.split("_to_")
        met = given[other]
        extra = self.options.get(f"extra_{name}")
        if direction == "query_to_key" and extra is not None:
            met = torch.cat([met, extra])
        return given[kind].unsqueeze(1) == met

    def __call__(self, rows: dict[str, Tensor], temperature: Tensor, reduction: str) -> Tensor:
        options = self.options
        rows = {name: unit(one) for name, one in rows.items()}
        scale = 1 / temperature.double()
        names = options.get("directions", ("query_to_key",))
        logs = {name: self.sums(name, rows, scale) for name in names}
        cosines = rows["query"] @ rows["key"].T
        queries, keys = normalized(self.weights), normalized(self.weights.T)
        mean = {"query": (cosines * queries).sum(1) * scale, "key": (cosines.T * keys).sum(1) * scale}
        has = {"query": queries.sum(1) > 0, "key": keys.sum(1) > 0}

        def one_kind(kind: str, total: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
            part = part & has[kind]
            return torch.where(part, total - mean[kind], 0), part

        def reduced(values: Tensor, part: Tensor) -> Tensor:
            if reduction == "none":
                return values
            return values.sum() / part.sum().clamp(min=1) if reduction == "mean" else values.sum()

        of = {kind: [one for name, one in logs.items() if name.startswith(kind)] for kind in ("query", "key")}
        if not options.get("joint"):
            found = 0.0
            for kind, some in of.items():
                if some:
                    stacked = torch.stack(some)
                    part = (stacked != -torch.inf).all(0)
                    values = one_kind(kind, stacked.masked_fill(~part, 0).mean(0), part)
                    found = found + reduced(*values) * len(some) / len(logs)
            return found
        totals = {kind: torch.stack(some).logsumexp(0) for kind, some in of.items() if some}
        if len(totals) == 1:
            ((kind, total),) = totals.items()
            part = total != -torch.inf
            return reduced(*one_kind(kind, total.masked_fill(~part, 0), part))
        together = torch.logaddexp(totals["query"].unsqueeze(1), totals["key"].unsqueeze(0))
        positive = queries > 0
        part = has["query"] & ((together != -torch.inf) | ~positive).all(1)
        each = queries * (together.masked_fill(~positive | ~part.unsqueeze(1), 0) - scale * cosines)
        return reduced(torch.where(part, each.sum(1), 0), part)


def leaves(names: list[str], generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {"query": (N, D), "key": (M, D), "extra": (E, D), "hard": (N, K, D)}
    return {
        name: torch.randn(shapes[name], generator=generator, dtype=torch.float64).requires_grad_()
        for name in names
    }


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Tensor], Tensor, str]:
    """Arguments of ours, rows, dense weights of positives, and a reduction: all that means something."""
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    directions = draw(st.sets(st.sampled_from(DIRECTIONS), min_size=1))
    extra, hard, joint = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    if "query_to_key" not in directions:
        extra = hard = False
    names = ["query", "key", *(["extra"] if extra else []), *(["hard"] if hard else [])]
    options: dict[str, Any] = {
        "directions": tuple(one for one in DIRECTIONS if one in directions),
        "joint": joint,
    }
    looking = {one.split("_to_")[0] for one in directions}
    positives = draw(st.sampled_from(["own", "index", "pairs", "weights", "matrix", "labels"]))
    options["exclude_self"] = "key" not in looking and positives != "own" and draw(st.booleans())
    weights = torch.zeros(N, M, dtype=torch.float64)
    if positives == "own" and "key" in looking:
        positives = "index"  # as many keys as queries would be needed
    if positives == "labels" and (joint and len(looking) == 2):
        positives = "pairs"
    if positives == "own":
        weights[torch.arange(N), torch.arange(N)] = 1
    elif positives == "index":
        index = torch.randint(-1, M, (N,), generator=generator)
        if options["exclude_self"]:  # where key i is query i, it is not its own positive
            index = torch.where(index == torch.arange(N), -1, index)
        options["positives"] = index
        weights[torch.arange(N)[index >= 0], index[index >= 0]] = 1
    elif positives == "labels":
        options["labels"] = tuple(torch.randint(0, 4, (one,), generator=generator) for one in (N, M))
        weights = (options["labels"][0].unsqueeze(1) == options["labels"][1]).double()
        if extra:  # positives among them, which the dense weights do not know
            options["extra_labels"] = torch.full((E,), 99)
    else:
        weights = (torch.rand(N, M, generator=generator) < 0.25).double()
        if options["exclude_self"]:
            weights[torch.arange(N), torch.arange(N)] = 0
        listed = weights.nonzero()[torch.randperm(int(weights.count_nonzero()), generator=generator)]
        if positives != "pairs":
            weights *= torch.rand(N, M, generator=generator, dtype=torch.float64)
        if positives == "weights":  # what weighs nothing is no positive, listed or not
            weights *= torch.rand(N, M, generator=generator) < 0.8
        options["positives"] = weights.to_sparse_csr() if positives == "matrix" else listed
        if positives == "weights":
            options["positive_weights"] = weights[listed[:, 0], listed[:, 1]]
    if draw(st.booleans()):
        options["groups"] = tuple(torch.randint(0, 3, (one,), generator=generator) for one in (N, M))
        if extra:
            options["extra_groups"] = torch.randint(0, 3, (E,), generator=generator)
    if draw(st.booleans()):
        options["guide"] = tuple(
            torch.randn(one, G, generator=generator, dtype=torch.float64) for one in (N, M)
        )
        if extra:
            options["extra_guide"] = torch.randn(E, G, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        options["false_negative_threshold"] = draw(st.sampled_from([-0.2, 0.1, 0.5]))
    if draw(st.booleans()):
        options["false_negative_margin"] = draw(st.sampled_from([-0.3, 0.0, 0.4]))
    options["hardness"] = draw(st.sampled_from([0.0, 0.0, 2.0]))
    options["decoupled"] = draw(st.booleans())
    if options["exclude_self"] and positives == "labels":
        options["labels"][1][:N] = options["labels"][0]
        weights = (options["labels"][0].unsqueeze(1) == options["labels"][1]).double()
        weights[torch.arange(N), torch.arange(N)] = 0
    if "query_to_key" in directions and draw(st.booleans()):
        options["exclude"] = torch.rand(N, M + E * extra, generator=generator) < 0.2
    reduction = draw(
        st.sampled_from(["mean", "sum"] if "key" in looking and not joint else ["mean", "sum", "none"])
    )
    return options, leaves(names, generator), weights, reduction


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    problem=problems(), temperature=st.sampled_from([1.0, 0.1, 0.01]), chunk_size=st.sampled_from([None, 4])
)
def test_every_combination(problem, temperature: float, chunk_size: int | None):
    options, rows, weights, reduction = problem
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    found = contrastive_cross_entropy(
        rows["query"],
        rows["key"],
        temperature=tau,
        extra_keys=rows.get("extra"),
        hard_negatives=rows.get("hard"),
        reduction=reduction,
        chunk_size=chunk_size,
        **options,
    )
    expected = Dense(weights, options)(rows, tau, reduction)
    if not torch.is_tensor(expected) or not expected.requires_grad:
        assert (found == 0).all()
        return
    scale = max(1.0, 0.1 / temperature)
    compare(found, expected, [*rows.values(), tau], 1e-9 * scale, FLOOR)


# What the kernels of whole losses know of.
PLAIN = (
    "positives",
    "labels",
    "extra_labels",
    "groups",
    "extra_groups",
    "decoupled",
    "exclude",
    "exclude_self",
    "directions",
    "joint",
)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problem=problems(), one_way=st.booleans(), chunk_size=st.sampled_from([None, 4]))
def test_combinations_by_kernels(force, problem, one_way: bool, chunk_size: int | None):
    force("triton")
    found, rows, weights, reduction = problem
    options = {name: found[name] for name in PLAIN if name in found}
    rows.pop("hard", None)
    positives = options.get("positives")
    if positives is not None and positives.ndim == 2:  # one of each query
        options["positives"] = weights.argmax(1).masked_fill(weights.amax(1) == 0, -1)
        weights = F.one_hot(weights.argmax(1), M) * (weights.amax(1, keepdim=True) > 0).double()
    if one_way and "query_to_key" in options["directions"]:
        options |= {"directions": ("query_to_key",), "joint": False}
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    narrow = {name: one.float() for name, one in rows.items()}
    loss = contrastive_cross_entropy(
        narrow["query"],
        narrow["key"],
        temperature=tau.float(),
        extra_keys=narrow.get("extra"),
        reduction=reduction,
        chunk_size=chunk_size,
        **options,
    )
    expected = Dense(weights, options)(rows, tau, reduction)
    if not torch.is_tensor(expected) or not expected.requires_grad:
        assert (loss == 0).all()
        return
    compare(loss, expected, [*rows.values(), tau], 2e-5, FLOOR)


def targets(weights: Tensor, options: dict[str, Any]) -> Tensor:
    """Of the sigmoid: the weights themselves, not averaged."""
    return weights if "positive_weights" in options or options.get("soft") else (weights > 0).double()


def dense_sigmoid(weights: Tensor, options: dict[str, Any], rows: dict[str, Tensor], s: Tensor, b: Tensor):
    """Losses of the queries, and those of the keys' own kind; from the definition, with whole matrices."""
    dense, rows = Dense(weights, options), {name: unit(one) for name, one in rows.items()}
    average, found = normalized(weights), {}
    for direction in options.get("directions", ("query_to_key",)):
        kind, other = direction.split("_to_")
        y = rows[other]
        if direction == "query_to_key" and "extra" in rows:
            y = torch.cat([y, rows["extra"]])
        cosines = rows[kind] @ y.T
        goal = torch.zeros_like(cosines)
        guided = dense.guided(kind, other, direction, rows)
        same = dense.paired("groups", direction)
        own = average if kind == "query" else normalized(weights.T)
        positive = torch.zeros_like(cosines)
        if kind != other:
            goal[:, : weights.shape[1]] = targets(weights, options)
            positive[:, : weights.shape[1]] = average
        out = dense.bounded(
            direction, kind, rows, cosines, positive, guided, same, positive if kind != other else own
        )
        if kind == other:
            labels = dense.paired("labels", direction)
            out = out | (linked(weights)[kind == "key"] if labels is None else labels)
            out = out | torch.eye(len(cosines), dtype=torch.bool)
        else:
            if options.get("exclude_self"):
                out = out | torch.eye(*cosines.shape, dtype=torch.bool)
            if options.get("exclude") is not None:
                out = out | options["exclude"]
        z = s.double() * cosines + b.double()
        losses = F.binary_cross_entropy_with_logits(z, goal, reduction="none").masked_fill(out, 0).sum(1)
        if direction == "query_to_key" and "hard" in rows:
            hard = dense.hard(rows, s.double(), average) + b.double()
            losses = losses + F.softplus(hard).sum(1)
        found[kind] = found.get(kind, 0) + losses
    return found


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problem=problems(), chunk_size=st.sampled_from([None, 4]))
def test_every_combination_of_the_sigmoid(problem, chunk_size: int | None):
    options, rows, weights, reduction = problem
    options = {name: one for name, one in options.items() if name not in ("joint", "decoupled", "hardness")}
    kept = tuple(one for one in options["directions"] if one != "key_to_query")
    options["directions"] = kept if "query_to_key" in kept else ("query_to_key", *kept)
    if reduction == "none" and "key_to_key" in options["directions"]:
        reduction = "sum"
    numbers = [torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in (5.0, -2.0)]
    found = pairwise_sigmoid_loss(
        rows["query"],
        rows["key"],
        scale=numbers[0],
        bias=numbers[1],
        extra_keys=rows.get("extra"),
        hard_negatives=rows.get("hard"),
        reduction=reduction,
        chunk_size=chunk_size,
        **options,
    )
    matrix = options.get("positives")
    soft = options | {"soft": isinstance(matrix, Tensor) and matrix.layout == torch.sparse_csr}
    losses = dense_sigmoid(weights, soft, rows, *numbers)
    expected = losses["query"]
    if reduction != "none":
        expected = sum(one.sum() for one in losses.values())
        expected = expected / N if reduction == "mean" else expected
    compare(found, expected, [*rows.values(), *numbers], 1e-10, FLOOR)


@st.composite
def alone(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor], Tensor, str]:
    """The same where the queries are the keys: arguments of ours, and of the definition."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    positives = draw(st.sampled_from(["views", "index", "pairs", "weights", "labels"]))
    ours: dict[str, Any] = {"decoupled": draw(st.booleans()), "hardness": draw(st.sampled_from([0.0, 2.0]))}
    number, eye = 8, torch.eye(8, dtype=torch.bool)
    weights = torch.zeros(number, number, dtype=torch.float64)
    if positives in ("views", "index"):
        index = torch.arange(number).roll(number // 2)
        if positives == "index":
            index = (torch.arange(number) + torch.randint(1, number, (number,), generator=generator)) % number
            index[0] = -1
        ours["positives"] = index
        weights[torch.arange(number)[index >= 0], index[index >= 0]] = 1
    elif positives == "labels":
        ours["labels"] = torch.randint(0, 3, (number,), generator=generator)
        weights = (ours["labels"].unsqueeze(1) == ours["labels"]).double().masked_fill(eye, 0)
    else:
        weights = (torch.rand(number, number, generator=generator) < 0.3).double().masked_fill(eye, 0)
        ours["positives"] = weights.nonzero()
        if positives == "weights":
            weights *= torch.rand(number, number, generator=generator, dtype=torch.float64)
            ours["positive_weights"] = weights[tuple(ours["positives"].T)]
    if draw(st.booleans()):
        ours["groups"] = torch.randint(0, 4, (number,), generator=generator)
    if draw(st.booleans()):
        ours["guide"] = torch.randn(number, G, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        ours["false_negative_threshold"] = draw(st.sampled_from([-0.2, 0.1, 0.5]))
    if draw(st.booleans()):
        ours["false_negative_margin"] = draw(st.sampled_from([-0.3, 0.0, 0.4]))
    theirs = {
        name: (one, one) if name in ("groups", "guide", "labels") else one for name, one in ours.items()
    }
    rows = {"query": torch.randn(number, D, generator=generator, dtype=torch.float64).requires_grad_()}
    return (
        ours,
        theirs | {"exclude_self": True},
        rows,
        weights,
        draw(st.sampled_from(["mean", "sum", "none"])),
    )


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problem=alone(), temperature=st.sampled_from([1.0, 0.1, 0.01]), chunk_size=st.sampled_from([None, 3]))
def test_every_combination_where_the_queries_are_the_keys(
    problem, temperature: float, chunk_size: int | None
):
    ours, theirs, rows, weights, reduction = problem
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    queries = rows["query"]
    common = {"reduction": reduction, "chunk_size": chunk_size}
    found = contrastive_cross_entropy(queries, temperature=tau, **common, **ours)
    expected = Dense(weights, theirs)({"query": queries, "key": queries}, tau, reduction)
    if not expected.requires_grad:
        assert (found == 0).all()
        return
    compare(found, expected, [queries, tau], 1e-9 * max(1.0, 0.1 / temperature), FLOOR)
    ours = {name: one for name, one in ours.items() if name not in ("decoupled", "hardness")}
    theirs = theirs | {"decoupled": False, "hardness": 0.0}
    numbers = [torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in (5.0, -2.0)]
    both = dict(zip(("scale", "bias"), numbers, strict=True))
    found = pairwise_sigmoid_loss(queries, **both, **common, **ours)
    losses = dense_sigmoid(weights, theirs, {"query": queries, "key": queries}, *numbers)["query"]
    expected = losses if reduction == "none" else losses.sum() / (len(queries) if reduction == "mean" else 1)
    compare(found, expected, [queries, *numbers], 1e-10, FLOOR)
