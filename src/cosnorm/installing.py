"""The command that installs an extra of this package, or it once more: from where it came, index or not."""

import json
import shlex
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def command(extra: str = "", options: str = "") -> str:
    """`pip install …`, for a line of a message.

    Args:
        extra: the name of an extra in pyproject.toml; empty for the package alone.
        options: of pip.
    """
    extras = f"[{extra}]" if extra else ""
    install = f"pip install {options} " if options else "pip install "
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").exists():
        return f"{install}-e {shlex.quote(f'{checkout}{extras}')}"
    try:
        url = _origin()
    except metadata.PackageNotFoundError:  # files that no installer put there
        return f"{install}'CHECKOUT{extras}', where CHECKOUT is the folder of cosnorm's sources"
    if url is None:
        wanted = f"cosnorm{extras}"
    elif url.startswith("file:"):
        wanted = url2pathname(urlsplit(url).path) + extras
    else:
        wanted = f"cosnorm{extras} @ {url}"
    return f"{install}{shlex.quote(wanted)}"


def _origin() -> str | None:
    """What pip was given, as pip wrote it down: it does so unless that was a name, found on an index."""
    written = metadata.distribution("cosnorm").read_text("direct_url.json")
    if written is None:
        return None
    origin = json.loads(written)
    kind = origin.get("vcs_info", {}).get("vcs")
    return f"{kind}+{origin['url']}" if kind else origin["url"]
