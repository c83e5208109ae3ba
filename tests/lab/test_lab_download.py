import functools
import gzip
import hashlib
import io
import tarfile
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cosnorm_lab.data import catalog, default_folder
from cosnorm_lab.data.catalog import MNIST, DataFile
from cosnorm_lab.data.download import fetch
from cosnorm_lab.errors import LabError

NAMES = sorted(f"{file.name}.gz" for file in MNIST.parts.values())


@pytest.fixture
def mirror(tmp_path):
    """A server on this machine; yields its folder, its address and the paths it was asked for."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def small_mnist(mirror, monkeypatch):
    """MNIST's entry with small files, served from one good mirror after a bad one."""
    folder, address, _ = mirror
    (folder / "good").mkdir()
    (folder / "bad").mkdir()
    parts = {}
    for part, file in MNIST.parts.items():
        data = part.encode() * 1000
        (folder / "good" / f"{file.name}.gz").write_bytes(gzip.compress(data))
        parts[part] = DataFile(file.name, hashlib.md5(data).hexdigest())
    files = replace(MNIST, parts=parts, mirrors=(f"{address}bad/", f"{address}good/"))
    monkeypatch.setitem(catalog.FETCHED, "mnist", files)
    return files


def test_fetches_from_the_second_mirror(small_mnist, mirror, tmp_path):
    target = tmp_path / "here" / "mnist"
    assert fetch("mnist", target) == target
    assert sorted(path.name for path in target.iterdir()) == NAMES
    for part, file in small_mnist.parts.items():
        assert gzip.decompress((target / f"{file.name}.gz").read_bytes()) == part.encode() * 1000
    assert len(mirror[2]) >= 8  # each file was asked of both


def test_does_not_fetch_what_is_there(small_mnist, mirror, tmp_path):
    fetch("mnist", tmp_path / "data")
    (tmp_path / "data" / NAMES[0]).unlink()
    mirror[2].clear()
    fetch("mnist", tmp_path / "data")
    assert {path.rsplit("/")[-1] for path in mirror[2] if path.startswith("/")} == {NAMES[0]}


@pytest.mark.parametrize(
    "wrong",
    [gzip.compress(b"other bytes"), b"<html>moved</html>", gzip.compress(b"x" * 999)[:-9]],
    ids=["other bytes", "a page", "cut off"],  # the bytes hold the time, and two workers must agree on names
)
def test_a_mirror_with_wrong_bytes_is_passed_over(small_mnist, mirror, tmp_path, wrong):
    (mirror[0] / "bad" / NAMES[0]).write_bytes(wrong)
    fetch("mnist", tmp_path / "data")
    assert (tmp_path / "data" / NAMES[0]).read_bytes() == (mirror[0] / "good" / NAMES[0]).read_bytes()


def test_no_mirror_leaves_nothing(small_mnist, mirror, tmp_path):
    first = f"{next(iter(small_mnist.parts.values())).name}.gz"
    (mirror[0] / "good" / first).write_bytes(gzip.compress(b"other bytes"))
    with pytest.raises(
        LabError, match=rf"no mirror serves {first} \(.*bad.*404.*good.*expected md5 .*--data-dir"
    ):
        fetch("mnist", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_no_server_at_all(small_mnist, monkeypatch, tmp_path):
    monkeypatch.setitem(catalog.FETCHED, "mnist", replace(small_mnist, mirrors=("http://127.0.0.1:9/",)))
    with pytest.raises(LabError, match=r"no mirror serves.*check the network"):
        fetch("mnist", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_an_interrupted_download_leaves_nothing(small_mnist, monkeypatch, tmp_path):
    import pooch

    def interrupted(self, url, output_file, _):
        with open(output_file, "wb") as file:  # noqa: PTH123
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("mnist", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_wrong_file_that_is_there_is_not_replaced(small_mnist, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / NAMES[0][:-3]).write_bytes(b"mine")
    with pytest.raises(LabError, match=r"is there but is not the official file.*remove it"):
        fetch("mnist", folder)
    assert (folder / NAMES[0][:-3]).read_bytes() == b"mine"


def test_names():
    with pytest.raises(LabError, match="unknown data set"):
        fetch("mnits")
    with pytest.raises(LabError, match="nothing to fetch"):
        fetch("digits")
    assert default_folder("mnist").name == "mnist"


def test_the_official_mirrors_are_https():
    assert MNIST.mirrors
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in MNIST.mirrors)


@pytest.fixture
def small_archives(mirror, monkeypatch):
    """Archives with and without a known checksum, and a set of single files."""
    folder, address, _ = mirror
    made = {}
    for name in ("cifar10", "20news", "svhn"):
        archive = catalog.ARCHIVES[name]
        members = {member: member.encode() * 100 for member in archive.members}
        if archive.file:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
                for member, data in members.items():
                    info = tarfile.TarInfo(f"{archive.inside}/{member}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            (folder / archive.file).write_bytes(buffer.getvalue())
            md5 = hashlib.md5(buffer.getvalue()).hexdigest() if archive.md5 else None
            made[name] = replace(archive, md5=md5, mirrors=(address,))
        else:
            for member, data in members.items():
                (folder / member).write_bytes(data)
            sums = {member: hashlib.md5(data).hexdigest() for member, data in members.items()}
            made[name] = replace(archive, members=sums, mirrors=(address,))
        monkeypatch.setitem(catalog.ARCHIVES, name, made[name])
    return made


@pytest.mark.parametrize("name", ["cifar10", "20news", "svhn"])
def test_archives_are_fetched_once_and_checked(small_archives, mirror, tmp_path, name):
    target = fetch(name, tmp_path / "data")
    wanted = [small_archives[name].file] if small_archives[name].file else list(small_archives[name].members)
    assert sorted(path.name for path in target.iterdir()) == sorted(wanted)
    mirror[2].clear()
    fetch(name, target)
    assert not mirror[2]
    (target / wanted[0]).write_bytes(b"broken")
    with pytest.raises(LabError, match=f"{wanted[0]} is there but is not the official file"):
        fetch(name, target)


@pytest.mark.parametrize("name", ["cifar10", "20news", "svhn"])
def test_a_broken_archive_is_never_kept(small_archives, mirror, tmp_path, name):
    wanted = small_archives[name].file or next(iter(small_archives[name].members))
    (mirror[0] / wanted).write_bytes((mirror[0] / wanted).read_bytes()[:-50])
    with pytest.raises(LabError, match=f"no mirror serves {wanted}"):
        fetch(name, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
