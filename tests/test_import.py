"""`import cosnorm` loads what it needs and changes nothing."""

import subprocess
import sys

import grimp

from cosnorm import installing

PROGRAM = """
import logging, os, sys
import numpy, torch
environment = dict(os.environ)
def flags():
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cpu"), torch.get_rng_state().tolist(),
    )
before, handlers, known = flags(), list(logging.root.handlers), set(sys.modules)
import cosnorm
assert flags() == before, "a flag of torch was changed"
assert dict(os.environ) == environment, "the environment was changed"
assert logging.root.handlers == handlers, "a logging handler was added"
new = {name.partition(".")[0] for name in set(sys.modules) - known}
print(" ".join(sorted(new)))
"""
FOREIGN = {
    "cosnorm_lab",
    "google",
    "jinja2",
    "lightning_fabric",
    "matplotlib",
    "pooch",
    "rich",
    "scipy",
    "sklearn",
    "triton",
    "typer",
}


def _import(program: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_import_is_clean():
    result = _import(PROGRAM)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "cosnorm" in loaded
    assert not loaded & FOREIGN


def test_without_protobuf_caffe2_says_what_to_install():
    program = "import sys; sys.modules['google.protobuf'] = None; import cosnorm; import cosnorm.caffe2"
    result = _import(program)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(
        f"cosnorm.caffe2 needs protobuf: {installing.command('caffe2')}"
    )


def test_the_program_sees_what_it_looks_for():
    result = _import(PROGRAM.replace("import cosnorm\n", "import cosnorm, jinja2\nos.environ['X'] = '1'\n"))
    assert "the environment was changed" in result.stderr
    result = _import(PROGRAM.replace("import cosnorm\n", "import cosnorm, jinja2\n"))
    assert "jinja2" in result.stdout.split()


def _circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that reach themselves, each with those that it reaches on the way."""

    def reached(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            for one in edges[ahead.pop()] - seen:
                seen.add(one)
                ahead.append(one)
        return seen

    everything = {name: reached(name) for name in edges}
    circles = {frozenset(n for n in edges if n in everything[m] and m in everything[n]) for m in edges}
    return [sorted(circle) for circle in circles if len(circle) > 1]


def test_no_files_import_each_other_in_a_circle():
    graph = grimp.build_graph("cosnorm", "cosnorm_lab", "benchmarks")
    edges = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(edges) > 150
    assert _circles(edges) == []
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
