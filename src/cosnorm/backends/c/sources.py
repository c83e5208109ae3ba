"""Which sources a library was compiled from. setup.py runs this file alone: it imports nothing of cosnorm."""

import zlib
from pathlib import Path

FOLDER = Path(__file__).with_name("passes")


def checksum() -> int:
    """A number that changes with the sources of the passes; setup.py compiles it into the library."""
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))))
