"""The command line: list, fetch, run, report, demo, bench."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cosnorm_lab import caffe2_commands
from cosnorm_lab.errors import LabError

ALIASES = {"lr": "learning_rate"}

app = typer.Typer(
    name="cosnorm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Reproduce the paper *Cosine Normalization*, and compare normalizations.\n\n"
    "Examples:\n\n"
    "- `cosnorm demo` : compare all methods on small digits, in minutes\n\n"
    "- `cosnorm fetch mnist` : download MNIST\n\n"
    "- `cosnorm run mnist-table1 --methods cosine,baseline --epochs 20`\n\n"
    "- `cosnorm report runs -o report.html`",
)

app.add_typer(caffe2_commands.app, name="caffe2")


@app.command("list")
def list_() -> None:
    """List the recipes, and the data sets with what is on disk."""
    from cosnorm_lab.tables import print_catalog

    print_catalog()


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Data set, such as mnist.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder to put the files in; by default the user's cache.")
    ] = None,
) -> None:
    """Download a data set from its mirrors and check it.

    Example: `cosnorm fetch mnist`
    """
    from cosnorm_lab.data.download import fetch as download

    typer.echo(f"{name} is in {download(name, data_dir)}")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Recipe, such as mnist-table1 (see `cosnorm list`).")],
    methods: Annotated[
        str | None, typer.Option(help="Methods, separated by commas; by default all.", metavar="A,B,…")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; by default the recipe's.", min=1)] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds: 0, 1, …; by default the recipe's, 1 of most.", min=1)
    ] = None,
    lr: Annotated[
        list[str] | None,
        typer.Option(help="Learning rate of one method; repeatable.", metavar="METHOD=VALUE"),
    ] = None,
    validation: Annotated[
        int | None, typer.Option(help="Hold back so many training images and count errors on them.", min=0)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Another field of the runs, such as init_std=0.316 or batch_size=256,1024 (a run of each); "
            "repeatable. An unknown one is answered with the fields there are.",
            metavar="FIELD=VALUE",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="The same, for a grid whose runs are trained side by side: lr=0.1,1,10; repeatable.",
            metavar="FIELD=A,B,…",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Runs trained side by side, each in a process pinned to its share of the cores; by default "
            "1, for a sweep all cores.",
            min=1,
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option(help="local, or ray for runs side by side on a Ray cluster.")
    ] = "local",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto for the best there is.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes on each machine.", min=1)] = 1,
    num_nodes: Annotated[int, typer.Option(help="Number of machines.", min=1)] = 1,
    precision: Annotated[
        str | None, typer.Option(help="32-true, bf16-mixed, 16-mixed, bf16-true, 64-true.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; with 1, runs repeat bit for bit.", min=1)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the data files, gzipped or not.")] = None,
    allow_checksum_mismatch: Annotated[
        bool, typer.Option("--allow-checksum-mismatch", help="Accept other files than the official ones.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write live curves into OUT/tensorboard.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of records.")] = Path("runs"),
) -> None:
    """Train the runs of a recipe, or go on with those that were stopped, and print the comparison.

    For example:

    - `cosnorm run mnist-table1 --data-dir mnist --epochs 1 --methods cosine,baseline`

    - `cosnorm run mnist-table1 --methods baseline --lr baseline=0.5 --validation 10000`

    - `cosnorm run simclr-mnist --set batch_size=256,1024 --set temperature=0.2`

    - `cosnorm run mnist-table1 --methods cosine --sweep lr=1,3,10,30 --validation 10000`

    Given again, the same command goes on from the last finished epoch; a finished run is not trained again.
    """
    from cosnorm_lab import recipes
    from cosnorm_lab.config import RunConfig
    from cosnorm_lab.execute import Machine, executing
    from cosnorm_lab.records import Run
    from cosnorm_lab.sources import Source
    from cosnorm_lab.tables import print_results

    chosen = recipes.find(recipe)
    given = {"epochs": epochs, "seeds": seeds, "validation": validation, "precision": precision}
    fields = (
        parse_fields(set_ or []),
        parse_fields(sweep or [], "--sweep"),
        {name: value for name, value in given.items() if value is not None},
    )
    named = [name for part in fields for name in part]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise LabError(
            f"given twice: {', '.join(twice)}; name each once, by --set, --sweep or its own option"
        )
    arguments: dict[str, Any] = {
        "methods": None if methods is None else [name.strip() for name in methods.split(",")],
        "learning_rates": parse_rates(lr or []),
        **{name: value for part in fields for name, value in part.items()},
    }
    configs = chosen.configs(**arguments)
    machine = Machine(
        executor=executor,
        workers=workers if workers is not None or sweep else 1,
        threads=threads,
        device=device,
        devices=devices,
        num_nodes=num_nodes,
    )
    names = sorted({config.dataset for config in configs})
    if len(names) > 1:
        raise LabError(f"one call runs one data set, got {', '.join(names)}")
    source = Source(names[0], data_dir, allow_checksum_mismatch)
    try:
        with executing(machine, source, out, configs[0].precision) as (execute, is_first):

            def stage(configs: list[RunConfig]) -> list[Run]:
                with _following(len(configs), is_first, out if tensorboard else None) as progress:
                    runs = execute(configs, progress)
                if is_first:
                    print_results(runs)
                return runs

            runs = stage(configs)
            if chosen.then:
                stage(chosen.then(runs, **arguments))
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on from the last finished epoch.", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _following(runs: int, is_first: bool, curves: Path | None) -> Iterator[Any]:
    """What is told how the runs go on: the progress bar, and event files below the folder `curves`."""
    from cosnorm_lab.progress import show_progress

    with show_progress(runs, quiet=not is_first) as progress:
        if curves is None or not is_first:
            yield progress
        else:
            from cosnorm_lab.event_files import EventFiles, Several

            yield Several([progress, EventFiles(curves / "tensorboard")])


def parse_rates(options: list[str]) -> dict[str, float]:
    """["cosine=10"] → {"cosine": 10.0}.

    Raises:
        LabError: an option is not METHOD=VALUE.
    """
    rates = {}
    for option in options:
        method, _, value = option.partition("=")
        try:
            rates[method.strip()] = float(value)
        except ValueError:
            raise LabError(
                f"--lr expects METHOD=VALUE with a number, such as cosine=10; got {option!r}"
            ) from None
    return rates


def parse_fields(options: list[str], option_name: str = "--set") -> dict[str, Any]:
    """["temperature=0.2", "batch_size=256,1024"] → {"temperature": 0.2, "batch_size": [256, 1024]}.

    Several values are separated by commas; "1000-1000" is a tuple, as the layers of `hidden` are.

    Raises:
        LabError: an option is not FIELD=VALUE; the message calls it `option_name`.
    """
    fields = {}
    for option in options:
        name, separator, text = option.partition("=")
        if not separator or not name.strip() or not text.strip():
            raise LabError(f"{option_name} expects FIELD=VALUE, such as temperature=0.2; got {option!r}")
        values = [_parse_value(part.strip()) for part in text.split(",")]
        fields[ALIASES.get(name.strip(), name.strip())] = values if len(values) > 1 else values[0]
    return fields


def _parse_value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"\d+(-\d+)+", text):
        return tuple(map(int, text.split("-")))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Records, or folders of them.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file to write; by default report.html, else what is printed."),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="html, a page; md or csv, for papers.", metavar="html|md|csv")
    ] = "html",
    readme: Annotated[
        Path | None, typer.Option(help="Also write tables into this file, between <!-- RECIPE --> marks.")
    ] = None,
) -> None:
    """Write a report of records: what they answer, tables and curves.

    Examples: `cosnorm report runs -o report.html`, `cosnorm report runs --format csv`
    """
    from cosnorm_lab.exports import as_text
    from cosnorm_lab.files import write_whole
    from cosnorm_lab.readme import update_readme
    from cosnorm_lab.records import read_all
    from cosnorm_lab.report import write_report

    found = read_all(runs)
    if format_ == "html":
        out = out or Path("report.html")
        write_report(found, out)
    elif out is None:
        typer.echo(as_text(found, format_), nl=False)
    else:
        write_whole(out, as_text(found, format_).encode())
    if out is not None:
        typer.echo(f"wrote {out}")
    if readme is not None:
        typer.echo(f"wrote into {readme}: {', '.join(update_readme(found, readme))}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the records and the report.")] = Path("demo"),
) -> None:
    """Compare all methods on the digits that scikit-learn ships; no download, a few minutes.

    Example: `cosnorm demo --out demo`
    """
    from cosnorm_lab.demo import run_demo

    run_demo(out)


@app.command()
def bench(
    only: Annotated[str, typer.Option(help="Cases whose name holds this text.")] = "",
    seconds: Annotated[float, typer.Option(help="Time for each case.")] = 10.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Time our layers and losses beside their peers, in a checkout of the project: what `make bench` does.

    Example: `cosnorm bench --only linear-training --seconds 5`
    """
    if not Path("benchmarks/run.py").is_file():
        raise LabError(
            "bench: the benchmarks are no part of the package; run it in a checkout of the project"
        )
    command = [sys.executable, "-m", "benchmarks.run", "--only", only, "--seconds", str(seconds)]
    command += [] if threads is None else ["--threads", str(threads)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
