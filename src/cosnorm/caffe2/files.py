"""Nets in files: `.pb` as Caffe2 writes them, and `.pbtxt`, their text."""

from pathlib import Path
from typing import Any

from google.protobuf import text_format

from cosnorm.caffe2.messages import message_of, parse
from cosnorm.caffe2.proto import caffe2_pb2

TEXT = (".pbtxt", ".prototxt", ".txt")


def load_net(path: str | Path) -> caffe2_pb2.NetDef:
    """Reads a net.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: the file holds no net; says which file.

    Example:
        >>> import tempfile
        >>> from cosnorm.caffe2 import core, load_net, save_net
        >>> net = core.Net("in a file")
        >>> cosine = net.Cos("X", "Y")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_net(net, f"{folder}/net.pb")
        ...     load_net(f"{folder}/net.pb").op[0].type
        'Cos'
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        net = _from_text(content) if path.suffix in TEXT else parse(content, caffe2_pb2.NetDef)
    except RuntimeError as error:
        raise RuntimeError(f"{path}: no NetDef can be read: {error}") from error
    if content and not net.op and not net.HasField("name"):
        raise RuntimeError(f"{path}: holds neither operators nor a name; is it a NetDef?")
    return net


def _from_text(content: bytes) -> caffe2_pb2.NetDef:
    net = caffe2_pb2.NetDef()
    try:
        text_format.Parse(content.decode(), net)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise RuntimeError(str(error)) from error
    except RecursionError as error:
        raise RuntimeError("messages within messages, more than can be followed") from error
    return net


def save_net(net: Any, path: str | Path) -> None:
    r"""Writes a net (a Net or a NetDef): as text if the name ends with .pbtxt, otherwise in Caffe2's bytes.

    Raises:
        TypeError: a message of another kind.
        ValueError: an object that is no net.

    Example: see `load_net`; as text

        >>> import tempfile
        >>> from pathlib import Path
        >>> from cosnorm.caffe2 import core, save_net
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_net(core.Net("written as text"), f"{folder}/net.pbtxt")
        ...     Path(f"{folder}/net.pbtxt").read_text()
        'name: "written as text"\n'
    """
    definition = message_of(net, caffe2_pb2.NetDef)
    path = Path(path)
    if path.suffix in TEXT:
        path.write_text(text_format.MessageToString(definition), encoding="utf-8")
    else:
        path.write_bytes(definition.SerializeToString())
