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
    from cosnorm.caffe2.registry import check_known
    from cosnorm.caffe2.runtime import Workspace
    from cosnorm.caffe2.stringify import shown
    from cosnorm.caffe2.tensors import from_array

    arrays = dict(_fed(text) for text in feeds)
    net, before = load_net(predict), load_net(init) if init else None
    check_known(*([] if before is None else [before]), net)  # before the first of them runs
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
        typer.echo(f"{shown(name)}: {array.dtype} {list(array.shape)} is in {path}")


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


def _sizes(text: str) -> tuple[str, list[int]]:
    """The name and the shape of "BLOB=3,4"."""
    name, _, sizes = text.rpartition("=")
    try:
        return name, [int(size) for size in sizes.split(",") if size]
    except ValueError as error:
        raise LabError(f"--shape wants BLOB=SIZES, such as data=32,784; got {text!r}") from error


def _show(path: Path, init: Path | None, given: dict[str, list[int]]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from cosnorm.caffe2 import load_net
    from cosnorm.caffe2.proto import caffe2_pb2
    from cosnorm.caffe2.registry import OPERATORS
    from cosnorm.caffe2.shapes import infer
    from cosnorm.caffe2.stringify import shown
    from cosnorm_lab.console import console

    net = load_net(path)
    shaped = {name: (dims, int(caffe2_pb2.TensorProto.FLOAT)) for name, dims in given.items()}
    before = infer([load_net(init)] if init else [], shaped)
    for name, dims in given.items():  # what is asked for wins over the init net, whose type stays
        before[name] = dims, before.get(name, shaped[name])[1]
    shapes = infer([net], before)
    kinds = caffe2_pb2.TensorProto.DataType

    def blobs(names: Any) -> Text:
        lines = []
        for name in names:
            dims, kind = shapes.get(name, (None, 0))
            lines.append(shown(name) if dims is None else f"{shown(name)} {kinds.Name(kind)} {dims}")
        return Text("\n".join(lines))

    headings = ("", "Operator", "Inputs", "Outputs", "Arguments")
    table = Table(*(Column(heading, overflow="fold") for heading in headings))  # cut in no terminal either
    for number, operator in enumerate(net.op):
        known = shown(operator.type) + " (unknown)" * (operator.type not in OPERATORS)
        arguments = Text("\n".join(f"{shown(one.name)}={_value(one)}" for one in operator.arg))
        table.add_row(str(number), Text(known), blobs(operator.input), blobs(operator.output), arguments)
    output = console()
    output.print(Text(f"net {shown(net.name)}: {len(net.op)} operators"))
    output.print(Text(f"inputs: {', '.join(map(shown, net.external_input)) or 'none declared'}"))
    output.print(Text(f"outputs: {', '.join(map(shown, net.external_output)) or 'none declared'}"))
    output.print(table)


def _value(argument: Any, most: int = 4) -> str:
    """The value of an argument; of long lists and texts the beginning, and how much there is."""
    fields = [(field.name, value) for field, value in argument.ListFields() if field.name != "name"]
    if not fields:
        return "[]"
    field, value = fields[0]
    if field in ("f", "i", "s", "n", "t"):
        return _one(value)
    more = f", …] ({len(value)})" if len(value) > most else "]"
    return f"[{', '.join(_one(one) for one in value[:most])}{more}"


def _one(value: Any, most: int = 60) -> str:
    """A number, text, net or tensor."""
    from cosnorm.caffe2.stringify import shown

    if isinstance(value, bytes):
        text = shown(value)
        return text if len(text) <= most else f"{text[:most]}… ({len(value)} bytes)"
    if hasattr(value, "dims"):
        return f"tensor {list(value.dims)}"
    return f"net {shown(value.name)}" if hasattr(value, "op") else str(value)


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
