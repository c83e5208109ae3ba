"""The command line: list, fetch, run, report, demo, bench."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cosnorm_lab import caffe2_commands, recipes
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import CONTRASTIVE, CONVERSIONS, HEADS, NORMALIZATIONS
from cosnorm_lab.options import parse_fields, parse_rates
from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.recipes.comparison import check_types

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


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cosnorm {version('cosnorm')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of no command."""


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
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}; see `cosnorm list`.")],
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Separated by commas, by default all of the recipe's: {', '.join(NORMALIZATIONS)}; "
            f"of contrastive training {', '.join(CONTRASTIVE)}; of heads {', '.join(HEADS)}; "
            f"of conversions {', '.join(CONVERSIONS)}.",
            metavar="A,B,…",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; by default the recipe's.", min=1)] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds: 0, 1, …; by default the recipe's, 1 of most.", min=1)
    ] = None,
    lr: Annotated[
        list[str] | None,
        typer.Option(
            help="Learning rate of one method, repeatable; 0.1 alone: of all; paper: the paper's, no search.",
            metavar="METHOD=VALUE",
        ),
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
            "1, for sweeps and searches all cores.",
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
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with the data files, gzipped or not; own data: file or folder."),
    ] = None,
    label: Annotated[
        str,
        typer.Option(help="Column of the classes, of an own table.", metavar="COLUMN", show_default=False),
    ] = "",
    group_by: Annotated[
        str,
        typer.Option(
            help="What stays together in training or test: a regular expression on file names, or a column.",
            metavar="REGEX",
            show_default=False,
        ),
    ] = "",
    image_size: Annotated[
        int,
        typer.Option(
            help="Sides that own pictures get; 0: see the docs.", min=0, metavar="N", show_default=False
        ),
    ] = 0,
    standardize: Annotated[
        bool | None,
        typer.Option(
            "--standardize/--no-standardize",
            help="Mean 0, deviation 1 of features that are no pixels; of own data by default.",
        ),
    ] = None,
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

    - `cosnorm run own --data-dir letters.csv`

    Given again, the same command goes on from the last finished epoch; a finished run is not trained again.
    """
    chosen = recipes.find(recipe)
    rates, every_rate = parse_rates(lr or [])
    given = {
        "epochs": epochs,
        "seeds": seeds,
        "validation": validation,
        "precision": precision,
        "standardize": standardize,
        "learning_rate": every_rate,
    }
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
    for part in fields:
        check_types(type(chosen.configs()[0]), part)
    arguments: dict[str, Any] = {
        "methods": None if methods is None else [name.strip() for name in methods.split(",")],
        "learning_rates": rates if chosen.fit or isinstance(rates, dict) else None,
        **{name: value for part in fields for name, value in part.items()},
    }
    configs = chosen.configs(**arguments)  # what is wrong with them is said before anything heavy is imported
    names = sorted({config.dataset for config in configs})
    if len(names) > 1:
        raise LabError(f"one call runs one data set, got {', '.join(names)}")

    from cosnorm_lab.execute import Machine
    from cosnorm_lab.running import run_recipe
    from cosnorm_lab.sources import Source

    machine = Machine(
        executor=executor,
        workers=workers if workers is not None or sweep or chosen.then else 1,
        threads=threads,
        device=device,
        devices=devices,
        num_nodes=num_nodes,
    )
    source = Source(names[0], data_dir, allow_checksum_mismatch, label, group_by, image_size)
    try:
        run_recipe(
            chosen, arguments, machine, source, out, swept=bool(sweep), curves=out if tensorboard else None
        )
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on from the last finished epoch.", err=True)
        raise typer.Exit(130) from None


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
    from cosnorm_lab.files import write_whole
    from cosnorm_lab.records import read_all
    from cosnorm_lab.report.exports import as_text
    from cosnorm_lab.report.page import write_report
    from cosnorm_lab.report.readme import update_readme

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
