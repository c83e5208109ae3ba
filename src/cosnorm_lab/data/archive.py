"""Data sets that come as one archive: read from its unpacked files, or straight from the packed one."""

import gzip
import hashlib
import tarfile
import zlib
from pathlib import Path

from cosnorm_lab.data.catalog import Archive
from cosnorm_lab.errors import LabError


def read_members(archive: Archive, folder: Path) -> dict[str, bytes]:
    """The bytes of each of the archive's files, by name.

    A file is looked for in `folder`, then in the folder of that name that unpacking makes; if none is there,
    all are read from the packed archive.

    Raises:
        LabError: a file is missing, or the archive is damaged.
    """
    for place in (folder, folder / archive.inside):
        present = [name for name in archive.members if (place / name).is_file()]
        if present:
            missing = [name for name in archive.members if name not in present]
            if missing:
                raise LabError(
                    f"{place} holds {present[0]} but not {', '.join(missing)}; put all files of "
                    f"{archive.name} there (`cosnorm fetch {archive.name}`)"
                )
            return {name: _read(place / name) for name in archive.members}
    packed = folder / (archive.file or "")
    if not packed.is_file():
        wanted = ", ".join(archive.members)
        neither = f"neither {archive.file} nor its files ({wanted})" if archive.file else f"no {wanted}"
        raise LabError(
            f"{folder} holds {neither}; "
            f"fetch the data (`cosnorm fetch {archive.name}`), or name their folder with --data-dir"
        )
    return unpack(archive, packed)


def unpack(archive: Archive, packed: Path) -> dict[str, bytes]:
    """The bytes of each of the archive's files, from the packed archive.

    Raises:
        LabError: a file is missing, or the archive is damaged.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(packed, "r:*") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in archive.members:
                    stream = tar.extractfile(member)
                    found[name] = stream.read() if stream else b""
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LabError(f"{packed} is truncated or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise LabError(f"cannot read {packed}: {error.strerror or error}") from error
    missing = [name for name in archive.members if name not in found]
    if missing:
        raise LabError(f"{packed} does not hold {', '.join(missing)}; is it the archive of {archive.name}?")
    return found


def checksums(
    archive: Archive, contents: dict[str, bytes], folder: Path, allow_mismatch: bool
) -> tuple[dict[str, str], bool]:
    """The md5 of each file, and whether all are the official ones.

    Raises:
        LabError: one is not, its official md5 is known, and other files are not allowed.
    """
    found = {name: hashlib.md5(data, usedforsecurity=False).hexdigest() for name, data in contents.items()}
    official = all(md5 is not None for md5 in archive.members.values())
    for name, md5 in archive.members.items():
        if md5 is not None and found[name] != md5:
            official = False
            if not allow_mismatch:
                raise LabError(
                    f"{folder / name} is not the official file: expected md5 {md5}, got {found[name]}. "
                    f"Fetch the official one (`cosnorm fetch {archive.name}`), or go on with "
                    "--allow-checksum-mismatch; the record will say so"
                )
    return found, official


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from error
