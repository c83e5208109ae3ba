"""`cosnorm caffe2`: run Caffe2's nets from their files, and show what they hold."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cosnorm_lab.errors import LabError
from cosnorm_lab.files import write_whole

app = typer.Typer(no_args_is_help=True, help="Run Caffe2's nets from their files, or show what they hold.")

NetFile = Annotated[Path, typer.Argument(help="File of a NetDef: .pb, or .pbtxt for text.", metavar="NET")]


@app.command()
def run(
    predict: Annotated[Path, typer.Option(help="The net to run: .pb, or .pbtxt for text.")],
    init: Annotated[Path | None, typer.Option(help="The net that makes its parameters, run before.")] = None,
    feed: Annotated[
        list[str] | None,
        typer.Option(help="A blob and the .npy file of its value; repeatable.", metavar="BLOB=FILE"),
    ] = None,
    fetch: Annotated[
        list[str] | None,
        typer.Option(help="A blob to write as BLOB.npy; repeatable; by default the net's external outputs."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("out"),
) -> None:
    """Run a net on given blobs and write others.

    Example: `cosnorm caffe2 run --init init_net.pb --predict predict_net.pb --feed X=x.npy --fetch Y -o out/`
    """
    with _errors():
        _run(predict, init, feed or [], fetch or [], out)


def _run(predict: Path, init: Path | None, feeds: list[str], fetches: list[str], out: Path) -> None:
    import numpy as np

    from cosnorm.caffe2 import load_net
    from cosnorm.caffe2.runtime import Workspace
    from cosnorm.caffe2.tensors import from_array

    arrays = dict(_fed(text) for text in feeds)
    net, before = load_net(predict), load_net(init) if init else None
    workspace = Workspace()
    if before is not None:
        workspace.run_net_once(before)
    for name, array in arrays.items():
        workspace.create_blob(name).value = from_array(array)
    workspace.run_net_once(net)
    names = fetches or list(net.external_output)
    if not names:
        raise LabError(f"{predict} declares no outputs; name what to write: --fetch BLOB")
    values = {}
    for name in names:
        value = workspace.find_blob(name).value
        if value is None:
            raise LabError(f"{name} holds nothing after the run")
        values[name] = _array(name, value)
    for name, array in values.items():
        # A blob may be called "tower/Y" or "../Y"; its file lies in the folder all the same.
        path = out / f"{quote(name, safe='')}.npy"
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write_whole(path, content.getvalue())
        typer.echo(f"{_shown(name)}: {array.dtype} {list(array.shape)} is in {path}")


def _array(name: str, value: Any) -> Any:
    """A blob's value as an array without objects."""
    import numpy as np

    from cosnorm.caffe2.tensors import to_array

    array = np.array(value, dtype=object) if isinstance(value, bytes) else to_array(value)
    if array.dtype != object:
        return array
    if any(text.endswith(b"\0") for text in array.flat):
        raise LabError(
            f"{name}: strings of a .npy file lose the zero bytes at their end; fetch it in Python, with "
            "cosnorm.caffe2.workspace.FetchBlob"
        )
    return array.astype("S")


def _fed(text: str) -> tuple[str, Any]:
    """The name and the array of "BLOB=FILE": of several "=" the last one behind which there is a file."""
    import numpy as np

    places = [place for place, letter in enumerate(text) if place and letter == "="]
    if not places:
        raise LabError(f"--feed wants BLOB=FILE, such as X=x.npy; got {text!r}")
    place = next((one for one in reversed(places) if Path(text[one + 1 :]).is_file()), places[0])
    name, file = text[:place], text[place + 1 :]
    try:
        array = np.load(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy's reader of headers lets through whatever Python's own parser raises
        raise LabError(f"{file}: no array of numbers can be read: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise LabError(f"{file}: is an archive of arrays; give the .npy file of one")
    return name, array


@app.command()
def show(
    net: NetFile,
    init: Annotated[Path | None, typer.Option(help="The net that makes its parameters.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Shape of an input; repeatable.", metavar="BLOB=SIZES")
    ] = None,
) -> None:
    """Show the operators of a net, and the types and shapes of blobs as far as they are known.

    Example: `cosnorm caffe2 show predict_net.pb --init init_net.pb --shape data=32,784`
    """
    with _errors():
        _show(net, init, dict(_sizes(text) for text in shape or []))


def _sizes(text: str) -> tuple[str, tuple[list[int], int]]:
    """The name, shape and type (float) of "BLOB=3,4"."""
    from cosnorm.caffe2.proto import caffe2_pb2

    name, _, sizes = text.rpartition("=")
    try:
        return name, ([int(size) for size in sizes.split(",") if size], caffe2_pb2.TensorProto.FLOAT)
    except ValueError as error:
        raise LabError(f"--shape wants BLOB=SIZES, such as data=32,784; got {text!r}") from error


def _show(path: Path, init: Path | None, given: dict[str, tuple[list[int], int]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cosnorm.caffe2 import load_net
    from cosnorm.caffe2.proto import caffe2_pb2
    from cosnorm.caffe2.registry import OPERATORS
    from cosnorm.caffe2.shapes import infer

    net = load_net(path)
    shapes = infer([*([load_net(init)] if init else []), net], given)
    kinds = caffe2_pb2.TensorProto.DataType

    def blobs(names: Any) -> Text:
        lines = []
        for name in names:
            dims, kind = shapes.get(name, (None, 0))
            lines.append(_shown(name) if dims is None else f"{_shown(name)} {kinds.Name(kind)} {dims}")
        return Text("\n".join(lines))

    table = Table("", "Operator", "Inputs", "Outputs", "Arguments")
    for number, operator in enumerate(net.op):
        known = _shown(operator.type) + " (unknown)" * (operator.type not in OPERATORS)
        arguments = Text("\n".join(f"{_shown(one.name)}={_value(one)}" for one in operator.arg))
        table.add_row(str(number), Text(known), blobs(operator.input), blobs(operator.output), arguments)
    console = Console()
    console.print(Text(f"net {_shown(net.name)}: {len(net.op)} operators"))
    console.print(Text(f"inputs: {', '.join(map(_shown, net.external_input)) or 'none declared'}"))
    console.print(Text(f"outputs: {', '.join(map(_shown, net.external_output)) or 'none declared'}"))
    console.print(table)


def _shown(name: str | bytes) -> str:
    """A name of a file that anyone may have written: what is no UTF-8 or cannot be printed is escaped."""
    text = name if isinstance(name, str) else name.decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _value(argument: Any, most: int = 4) -> str:
    for field in ("f", "i", "s"):
        if argument.HasField(field):
            return str(getattr(argument, field))[:60]
    for field in ("floats", "ints", "strings"):
        values = list(getattr(argument, field))
        if values:
            more = ", …" if len(values) > most else ""
            return f"[{', '.join(str(value) for value in values[:most])}{more}]" + f" ({len(values)})" * bool(
                more
            )
    return "[]" if not argument.HasField("n") else f"net {_shown(argument.n.name)}"


@contextmanager
def _errors() -> Iterator[None]:
    """What a file or an operator makes go wrong is one line for the user."""
    try:
        yield
    except ImportError as error:
        raise LabError(str(error)) from error
    except RuntimeError as error:
        if isinstance(error, NotImplementedError | RecursionError):
            raise
        raise LabError(" ".join(str(error).split())) from error
