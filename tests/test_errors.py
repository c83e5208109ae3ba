"""Clause 7: bad input raises at once, and says what was expected, what came, and how to mend it."""

import pytest
import torch

import cosnorm.functional
import cosnorm.nn
from cosnorm import functional as f
from cosnorm import nn

X, W = torch.randn(4, 6), torch.randn(5, 6)
IMAGES = {1: torch.randn(2, 4, 6), 2: torch.randn(2, 4, 6, 6), 3: torch.randn(2, 4, 6, 6, 6)}
FILTERS = {1: torch.randn(6, 4, 3), 2: torch.randn(6, 4, 3, 3), 3: torch.randn(6, 4, 3, 3, 3)}


def _two_tensors(name, call, x, y, second):
    """What every function of two tensors refuses."""
    return [
        (name, lambda: call(x.tolist(), y), TypeError, ["torch.Tensor", "list", "as_tensor"]),
        (name, lambda: call(x, y.numpy()), TypeError, [second, "torch.Tensor", "ndarray"]),
        (name, lambda: call(x.long(), y), TypeError, ["float32", "int64", ".float()"]),
        (name, lambda: call(x.to(torch.complex64), y), TypeError, ["float32", "complex64"]),
        (name, lambda: call(x, y.double()), TypeError, ["one dtype", "float32", "float64", ".to("]),
        (name, lambda: call(x, y.to("meta")), ValueError, ["one device", "cpu", "meta", ".to("]),
        (name, lambda: call(x.to_sparse(), y), TypeError, ["dense", "sparse", "to_dense"]),
        (name, lambda: call(x, y, centered=1), TypeError, ["centered", "True or False", "1"]),
    ]


def _augment(name, call, x, y):
    return [
        (name, lambda: call(x, y, augment=-1e-4), ValueError, ["augment", "not negative", "-0.0001", "1e-4"]),
        (name, lambda: call(x, y, augment=float("nan")), ValueError, ["augment", "finite", "nan"]),
        (name, lambda: call(x, y, augment="1"), TypeError, ["augment", "number", "str"]),
    ]


CASES = [
    *_two_tensors("cosine_similarity", f.cosine_similarity, X, X, "y"),
    (
        "cosine_similarity",
        lambda: f.cosine_similarity(X, W),
        ValueError,
        ["broadcast", "(4, 6)", "(5, 6)", "pairwise"],
    ),
    ("cosine_similarity", lambda: f.cosine_similarity(X, X, 2), IndexError, ["between -2 and 1", "2"]),
    ("cosine_similarity", lambda: f.cosine_similarity(X, X, 0.5), TypeError, ["dim", "int", "0.5"]),
    (
        "cosine_similarity",
        lambda: f.cosine_similarity(X[0, 0], X[0, 0]),
        ValueError,
        ["dimension", "scalars", "reshape"],
    ),
    *_two_tensors("pairwise_cosine", f.pairwise_cosine, X, W, "y"),
    (
        "pairwise_cosine",
        lambda: f.pairwise_cosine(X, W[:, :5]),
        ValueError,
        ["(*, N, D)", "(4, 6)", "(5, 5)"],
    ),
    ("pairwise_cosine", lambda: f.pairwise_cosine(X[0]), ValueError, ["(*, N, D)", "(6,)", "unsqueeze"]),
    (
        "pairwise_cosine",
        lambda: f.pairwise_cosine(IMAGES[1], IMAGES[1][:, :3].repeat(2, 1, 1)),
        ValueError,
        ["leading", "(2, 4, 6)", "(4, 3, 6)"],
    ),
    *_two_tensors("cosine_linear", f.cosine_linear, X, W, "weight"),
    *_augment("cosine_linear", f.cosine_linear, X, W),
    (
        "cosine_linear",
        lambda: f.cosine_linear(X, W[:, :5]),
        ValueError,
        ["in_features = 5", "(4, 6)", "transpose"],
    ),
    ("cosine_linear", lambda: f.cosine_linear(X, W[0]), ValueError, ["(out_features, in_features)", "(6,)"]),
    ("cosine_linear", lambda: f.cosine_linear(X[0, 0], W), ValueError, ["in_features = 6", "()"]),
]

for rank in (1, 2, 3):
    name = f"cosine_conv{rank}d"
    call, x, w = getattr(f, name), IMAGES[rank], FILTERS[rank]
    CASES += [*_two_tensors(name, call, x, w, "weight"), *_augment(name, call, x, w)]

    def conv(call=call, x=x, w=w, **options):
        return lambda: call(x, w, **options)

    CASES += [
        (name, conv(x=x[0, 0]), ValueError, ["(N, C,", f"{rank} spatial", "got"]),
        (name, conv(w=w[0]), ValueError, ["out_channels", "got"]),
        (name, conv(x=x[:, :3]), ValueError, ["needs 4 input channels", "got 3"]),
        (name, conv(groups=4), ValueError, ["divides out_channels = 6", "got 4"]),
        (name, conv(groups=0), ValueError, ["positive int", "got 0"]),
        (name, conv(groups=2), ValueError, ["needs 8 input channels", "got 4"]),
        (name, conv(stride=0), ValueError, ["stride", "at least 1", "0"]),
        (name, conv(stride=1.5), TypeError, ["stride", f"int or {rank} ints", "1.5"]),
        (name, conv(stride=[1] * (rank + 2)), TypeError, ["stride", f"int or {rank} ints"]),
        (name, conv(padding=-1), ValueError, ["padding", "at least 0", "-1"]),
        (name, conv(padding="full"), ValueError, ["padding", '"same"', "full"]),
        (name, conv(padding="same", stride=2), ValueError, ["same", "stride 1", "numbers"]),
        (name, conv(dilation=0), ValueError, ["dilation", "at least 1"]),
        (name, conv(dilation=3), ValueError, ["does not fit", "dilation", "pad more"]),
    ]

for rank in (1, 2, 3):
    name = f"CosineConv{rank}d"
    layer = getattr(nn, name)
    CASES += [
        (name, lambda layer=layer: layer(4, 6, 3, scale=-1.0), ValueError, ["scale", "positive", "-1"]),
        (name, lambda layer=layer: layer(4, 6, 3, scale="big"), ValueError, ["scale", '"learned"', "big"]),
        (name, lambda layer=layer: layer(4, 6, 3, augment=-1), ValueError, ["augment", "not negative"]),
        (name, lambda layer=layer: layer(4, 6, 3, centered="yes"), TypeError, ["centered", "yes"]),
        (
            name,
            lambda layer=layer, r=rank: layer(3, 6, 3)(IMAGES[r]),
            ValueError,
            ["3 input channels", "got 4"],
        ),
        (name, lambda layer=layer, r=rank: layer(4, 6, 3)(IMAGES[r].double()), TypeError, ["one dtype"]),
    ]
    name = f"MeanOnlyBatchNorm{rank}d"
    layer = getattr(nn, name)
    CASES += [
        (name, lambda layer=layer: layer(0), ValueError, ["num_features", "positive", "0"]),
        (name, lambda layer=layer: layer(3, momentum=2), ValueError, ["momentum", "[0, 1]", "2"]),
        (name, lambda layer=layer, r=rank: layer(3)(IMAGES[r]), ValueError, ["C = 3", "(2, 4,"]),
        (name, lambda layer=layer: layer(3)(torch.randn(3)), ValueError, ["expected (N, C", "(3,)"]),
        (
            name,
            lambda layer=layer, r=rank: layer(4)(IMAGES[r].long()),
            TypeError,
            ["float32", "int64", "float()"],
        ),
        (name, lambda layer=layer: layer(4)([1.0]), TypeError, ["torch.Tensor", "list"]),
        (
            name,
            lambda layer=layer, r=rank: layer(4)(IMAGES[r].to("meta")),
            ValueError,
            ["meta", "cpu", "move"],
        ),
    ]

CASES += [
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, scale=0), ValueError, ["scale", "positive", "0"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, scale=float("inf")), ValueError, ["scale", "finite"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, augment=float("inf")), ValueError, ["augment", "finite"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, centered=None), TypeError, ["centered", "True or False"]),
    ("CosineLinear", lambda: nn.CosineLinear(7, 5)(X), ValueError, ["in_features = 7", "(4, 6)"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5)(X.double()), TypeError, ["one dtype", "float64"]),
    ("MaxNorm", lambda: nn.MaxNorm([], 2.0), ValueError, ["nothing to project", "0 parameters"]),
    ("MaxNorm", lambda: nn.MaxNorm([W], -1), ValueError, ["max_norm", "positive", "-1", "2"]),
    ("MaxNorm", lambda: nn.MaxNorm([W], "2"), TypeError, ["max_norm", "number"]),
    ("MaxNorm", lambda: nn.MaxNorm([W, "w"]), TypeError, ["tensors", "str"]),
]


for rank in (1, 2, 3):
    name = f"cosine_conv{rank}d"
    call, x, w = getattr(f, name), IMAGES[rank], FILTERS[rank]

    def conv(call=call, x=x, w=w, **options):
        return lambda: call(x, w, **options)

    CASES += [
        (name, conv(x=x[..., :0], padding=3), ValueError, ["one position", "batch", "0)"]),
        (name, conv(w=w[:0]), ValueError, ["out_channels", "none of them 0", "(0, 4,"]),
        (name, conv(padding=None), TypeError, ["padding", f"int or {rank} ints", "None"]),
        (name, conv(padding=True), TypeError, ["padding", f"int or {rank} ints", "True"]),
        (name, conv(stride="2"), TypeError, ["stride", "'2'"]),
        (name, conv(dilation=[]), TypeError, ["dilation", "[]"]),
        (name, conv(groups=True), ValueError, ["groups", "positive int", "True"]),
        (name, conv(groups="1"), ValueError, ["groups", "positive int", "'1'"]),
        (name, conv(augment=1e200), ValueError, ["augment", "at most", "1e+200"]),
    ]
    name = f"CosineConv{rank}d"
    layer = getattr(nn, name)

    def build(*arguments, layer=layer, **options):
        return lambda: layer(*(arguments or (4, 6, 3)), **options)

    def reflect(x, layer=layer):
        return lambda: layer(4, 6, 3, padding=1, padding_mode="reflect")(x)

    CASES += [
        (name, build(0, 6, 3), ValueError, ["in_channels", "at least 1", "0"]),
        (name, build(4, -6, 3), ValueError, ["out_channels", "at least 1", "-6"]),
        (name, build(4.0, 6, 3), TypeError, ["in_channels", "int", "4.0"]),
        (name, build(4, 6, "3"), TypeError, ["kernel_size", f"int or {rank} ints", "'3'"]),
        (name, build(4, 6, (3,) * (rank + 2)), TypeError, ["kernel_size", f"int or {rank} ints", "(3,"]),
        (name, build(4, 6, 0), ValueError, ["kernel_size", "at least 1", "0"]),
        (name, build(stride=0), ValueError, ["stride", "at least 1"]),
        (name, build(stride=1.5), TypeError, ["stride", f"int or {rank} ints", "1.5"]),
        (name, build(padding=-1), ValueError, ["padding", "at least 0", "-1"]),
        (name, build(dilation=0), ValueError, ["dilation", "at least 1"]),
        (name, build(groups=0), ValueError, ["groups", "at least 1"]),
        (name, build(bias="no"), TypeError, ["bias", "True or False", "no"]),
        (name, build(dtype=torch.int32), TypeError, ["dtype", "float32", "int32"]),
        (name, build(scale=X), TypeError, ["scale", "number", '"learned"']),
        (name, reflect(x.tolist()), TypeError, ["torch.Tensor", "list", "as_tensor"]),
        (name, reflect(x.long()), TypeError, ["float32", "int64", ".float()"]),
        (name, reflect(X[0]), ValueError, ["(N, C,", f"{rank} spatial", "(6,)"]),
        (name, build(augment="1"), TypeError, ["augment", "number", "str"]),
    ]
    name = f"MeanOnlyBatchNorm{rank}d"
    layer = getattr(nn, name)
    CASES += [
        (name, lambda layer=layer: layer(3.0), ValueError, ["num_features", "positive int", "3.0"]),
        (name, lambda layer=layer: layer(3, momentum="0.1"), TypeError, ["momentum", "number", "'0.1'"]),
        (name, lambda layer=layer: layer(3, momentum=True), TypeError, ["momentum", "number", "True"]),
        (name, lambda layer=layer: layer(3, momentum=float("nan")), ValueError, ["momentum", "nan"]),
        (name, lambda layer=layer: layer(3, affine="no"), TypeError, ["affine", "True or False", "no"]),
        (name, lambda layer=layer: layer(3, track_running_stats=1), TypeError, ["track_running_stats", "1"]),
        (name, lambda layer=layer: layer(3, dtype=torch.int8), TypeError, ["dtype", "float32", "int8"]),
        (
            name,
            lambda layer=layer, x=x: layer(4)(x.to_sparse()),
            TypeError,
            ["dense", "sparse", "to_dense"],
        ),
        (name, lambda layer=layer: layer(4)(torch.randn(1, 4, *[1] * 3)), ValueError, ["C = 4", "got"])
        if rank < 3
        else (name, lambda layer=layer: layer(4)(torch.randn(1, 4, 1, 1, 1)), ValueError, ["larger batch"]),
    ]

CASES += [
    ("cosine_linear", lambda: f.cosine_linear(X, W, augment=10**400), ValueError, ["augment", "at most"]),
    ("cosine_similarity", lambda: f.cosine_similarity(X, X, None), TypeError, ["dim", "int", "None"]),
    ("cosine_similarity", lambda: f.cosine_similarity(X, X, -3), IndexError, ["between -2 and 1", "-3"]),
    *[
        ("cosine_topk", lambda more=more: f.cosine_topk(X, W, **more), error, words)
        for more, error, words in (
            ({"k": 6}, ValueError, ["k", "at most", "5", "6"]),
            ({"k": 0}, ValueError, ["k", "at least 1", "0"]),
            ({"k": 1.0}, TypeError, ["k", "int", "1.0"]),
            ({"exclude_self": 1}, TypeError, ["exclude_self", "True or False"]),
            ({"chunk_size": 0}, ValueError, ["chunk_size", "at least 1"]),
            ({"labels": torch.arange(4)}, ValueError, ["with keys a pair", "(query_labels, key_labels)"]),
            ({"labels": (torch.arange(4),)}, TypeError, ["pair of tensors", "tuple"]),
            ({"labels": (torch.arange(4), torch.arange(4))}, ValueError, ["(5,)", "(4,)"]),
            ({"labels": (X[:, 0], torch.arange(5))}, TypeError, ["labels", "whole numbers", "float32"]),
            ({"exclude": torch.ones(4, 4).bool()}, ValueError, ["broadcast to (4, 5)", "(4, 4)", "(P, 2)"]),
            ({"exclude": torch.ones(3).long()}, ValueError, ["(4,)", "(P, 2)", "(3,)"]),
            ({"exclude": torch.full((4,), 5)}, ValueError, ["exclude", "[0, 6)", "6"]),
            ({"exclude": torch.tensor([[4, 0]])}, ValueError, ["queries", "[0, 4)", "4"]),
            ({"exclude": torch.tensor([[0, 5]])}, ValueError, ["keys", "[0, 5)", "5"]),
            ({"exclude": [1]}, TypeError, ["exclude", "torch.Tensor", "list"]),
            ({"below": "1"}, TypeError, ["below", "number or a tensor", "str"]),
            ({"below": torch.ones(5)}, ValueError, ["below", "(4,)", "(5,)"]),
            ({"below": torch.ones(4, device="meta")}, ValueError, ["below", "cpu", "meta"]),
            ({"group": object()}, RuntimeError, ["init_process_group", "leave group out"]),
        )
    ],
    ("cosine_topk", lambda: f.cosine_topk(X, W[:, :5]), ValueError, ["(N, D)", "(5, 5)", "flatten(1)"]),
    ("cosine_topk", lambda: f.cosine_topk(X[0]), ValueError, ["(N, D)", "(6,)", "flatten(1)"]),
    ("cosine_topk", lambda: f.cosine_topk(X.long()), TypeError, ["float32", "int64", ".float()"]),
    ("cosine_topk", lambda: f.cosine_topk(X, W.double()), TypeError, ["one dtype", "float64", ".to("]),
    ("cosine_topk", lambda: f.cosine_topk(X, W.to("meta")), ValueError, ["one device", "meta"]),
    ("cosine_topk", lambda: f.cosine_topk([1.0]), TypeError, ["torch.Tensor", "list"]),
    ("CosineLinear", lambda: nn.CosineLinear(-1, 5), ValueError, ["in_features", "at least 0", "-1"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, impl="cuda"), ValueError, ["auto", "triton", "cuda"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, precision=8), TypeError, ["precision", "string", "int"]),
    ("CosineConv2d", lambda: nn.CosineConv2d(6, 5, 3, impl=1), TypeError, ["impl", "string", "int"]),
    ("FoldedCosineLinear", lambda: nn.FoldedCosineLinear(W), TypeError, ["CosineLinear", "Tensor"]),
    (
        "FoldedCosineLinear",
        lambda: nn.CosineLinear(7, 5).fold()(X),
        ValueError,
        ["in_features = 7", "(4, 6)"],
    ),
    ("FoldedCosineConv", lambda: nn.FoldedCosineConv(W), TypeError, ["CosineConv", "Tensor"]),
    ("FoldedCosineConv", lambda: nn.CosineConv1d(7, 5, 2).fold()(X), ValueError, ["(7, …)", "(1, 4, 6)"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5.0), TypeError, ["out_features", "int", "5.0"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, bias=None), TypeError, ["bias", "True or False", "None"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, dtype=torch.int64), TypeError, ["dtype", "int64"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, scale="10"), ValueError, ["scale", '"learned"', "'10'"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, scale=X.numpy()), TypeError, ["scale", "number"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5, scale=True), TypeError, ["scale", "number", "True"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5)([1.0]), TypeError, ["torch.Tensor", "list"]),
    ("CosineLinear", lambda: nn.CosineLinear(6, 5)(X.to("meta")), ValueError, ["one device", "meta", "cpu"]),
    ("MaxNorm", lambda: nn.MaxNorm(None), TypeError, ["module or an iterable", "NoneType"]),
    ("MaxNorm", lambda: nn.MaxNorm(FILTERS[2]), TypeError, ["iterable", "Tensor", "list"]),
    ("MaxNorm", lambda: nn.MaxNorm([W.long()]), TypeError, ["float32", "int64"]),
    ("MaxNorm", lambda: nn.MaxNorm([W.to_sparse()]), TypeError, ["dense", "sparse"]),
    ("MaxNorm", lambda: nn.MaxNorm([W], float("nan")), ValueError, ["max_norm", "finite", "nan"]),
    ("MaxNorm", lambda: nn.MaxNorm([W]).attach(None), TypeError, ["Optimizer", "NoneType", "project()"]),
]


@pytest.mark.parametrize(("name", "call", "error", "words"), CASES)
def test_the_error_says_what_to_do(name, call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    # A layer's input is checked by the function it calls.
    assert name in message or name.replace("Cosine", "cosine_").lower() in message
    missing = [word for word in words if word not in message]
    assert not missing, message


# In tests/functional: test_loss_errors.py, test_class_sums.py, test_margins.py and test_batch_margins.py.
# NoMargin and BatchMargin have no argument; Targets and Changed are what margins get and give, and
# TopK is a result.
TESTED_ELSEWHERE = {
    "AdaFaceMargin",
    "AdditiveAngle",
    "AdditiveCosine",
    "BatchMargin",
    "Changed",
    "CombinedMargin",
    "CurricularMargin",
    "ElasticMargin",
    "MagFaceMargin",
    "MultiplicativeAngle",
    "NoMargin",
    "TopK",
    "Schedule",
    "ScheduledMargin",
    "Targets",
    "class_sigmoid_loss",
    "contrastive_cross_entropy",
    "margin_cross_entropy",
    "pairwise_sigmoid_loss",
    "proxy_anchor_loss",
    "sample_classes",
}


def test_every_public_name_has_a_case():
    public = {*cosnorm.functional.__all__, *cosnorm.nn.__all__}
    assert public - TESTED_ELSEWHERE == {name for name, *_ in CASES}


def test_the_check_of_words_can_fail():
    with pytest.raises(AssertionError, match="in_features"):
        test_the_error_says_what_to_do(
            "cosine_linear", lambda: f.cosine_linear(X, W[:, :5]), ValueError, ["apples"]
        )
