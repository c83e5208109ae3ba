"""Own data in every form: what is read, how it is split, what is said of it."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from lab_data import idx_bytes
from PIL import Image

from cosnorm_lab.data import load
from cosnorm_lab.data.pixels import are_pixels, pixel_range
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes.own import own
from cosnorm_lab.tasks.batches import split

WORDS = np.array(["ant", "bee", "cow"])


def made(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(count) % 3
    x = np.random.default_rng(1).normal(size=(count, 4)).round(2)
    x[np.arange(count), y] += 3
    return x, y


def csv(x: np.ndarray, y, head: str | None = "a,b,c,d,label", separator: str = ",") -> str:
    rows = [separator.join([*map(str, row), str(label)]) for row, label in zip(x, y, strict=True)]
    return "\n".join([*([head.replace(",", separator)] if head else []), *rows]) + "\n"


def rows_of(data) -> list[tuple]:
    """Every sample with the name of its class, in an order of its own."""
    parts = ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    return sorted(
        (*(round(value, 4) for value in row), data.classes[label])
        for images, labels in parts
        for row, label in zip(images.tolist(), labels.tolist(), strict=True)
    )


def expected_rows(x: np.ndarray, names) -> list[tuple]:
    rows = x.astype(float)
    return sorted(
        (*(round(value, 4) for value in row), str(name)) for row, name in zip(rows, names, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.csv", lambda x, y: csv(x, WORDS[y])),
        ("data.tsv", lambda x, y: csv(x, WORDS[y], separator="\t")),
        ("semicolons.csv", lambda x, y: csv(x, WORDS[y], separator=";")),
        ("nameless.csv", lambda x, y: csv(x, WORDS[y], head=None)),
        ("counted.csv", lambda x, y: csv(x, WORDS[y], head="0,1,2,3,animal")),
        ("words.CSV", lambda x, y: csv(x, WORDS[y], head="a,b,c,d,animal")),
        ("mark.csv", lambda x, y: "\ufeff" + csv(x, WORDS[y])),
    ],
)
def test_tables_of_every_sort(tmp_path, name, text):
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    x, y = made()
    (tmp_path / name).write_text(text(x, y), encoding="utf-8")
    data = load("own", tmp_path / name)
    assert data.classes == ("ant", "bee", "cow")
    assert rows_of(data) == expected_rows(x, WORDS[y])
    assert (data.file, data.pixels, len(data.test_labels)) == (name, False, 12)
    assert any("column" in note for note in data.notes)


def test_parquet_and_columns_of_words(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra `tables`)")
    x, y = made()
    colours = np.where(np.arange(60) % 2, "red", "blue")
    frame = pandas.DataFrame({"a": x[:, 0], "colour": colours, "kind": WORDS[y], "b": x[:, 1]})
    frame.to_parquet(tmp_path / "data.parquet")
    data = load("own", tmp_path / "data.parquet", label="kind")
    wanted = np.column_stack([x[:, 0], colours == "blue", colours == "red", x[:, 1]])
    assert rows_of(data) == expected_rows(wanted, WORDS[y])
    assert "a column of zeros and ones for each word of 'colour'" in data.notes


def test_which_column_holds_the_classes(tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    x, y = made()
    path = tmp_path / "data.csv"
    path.write_text(csv(x, y, head=None))  # a last column of few whole numbers
    data = load("own", path)
    assert "the classes are the last column, '5' (--label names another)" in data.notes
    assert rows_of(data) == expected_rows(x, y)
    path.write_text(csv(x, x[:, 0], head="a,b,c,d,e"))
    with pytest.raises(
        LabError, match=r"which column holds the classes\? Name it: --label COLUMN, of 'a', 'b'"
    ):
        load("own", path)
    with pytest.raises(LabError, match=r"has no column 'f' for --label; its columns are 'a'"):
        load("own", path, label="f")
    with pytest.raises(LabError, match=r"60 different values|different values among 60 samples"):
        load("own", path, label="a")


@pytest.mark.parametrize(
    ("hole", "message"),
    [
        ("", "line 9, column 'c' holds nothing"),
        ("nan", "line 9, column 'c' holds"),
        ("inf", "line 9, column 'c' is inf"),
    ],
)
def test_where_a_table_holds_no_number(tmp_path, hole, message):
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    x, y = made()
    lines = csv(x, WORDS[y]).splitlines()
    fields = lines[8].split(",")
    fields[2] = hole
    lines[8] = ",".join(fields)
    (tmp_path / "data.csv").write_text("\n".join(lines))
    with pytest.raises(LabError, match=message):
        load("own", tmp_path / "data.csv")


def test_too_many_words_and_empty_tables(tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    x, y = made()
    path = tmp_path / "data.csv"
    lines = [f"name{row},{x[row, 0]},{WORDS[y[row]]}" for row in range(60)]
    path.write_text("\n".join(["id,a,kind", *lines]))
    with pytest.raises(
        LabError, match="the column 'id' holds 60 different words in 60 rows, such as 'name0'"
    ):
        load("own", path, label="kind")
    for text, message in (
        ("", "cannot be read as a table"),
        ("a,label\n", "holds no row"),
        ("label\nx\ny\n", "no column besides"),
    ):
        path.write_text(text)
        with pytest.raises(LabError, match=message):
            load("own", path)


@pytest.mark.parametrize(
    "names", [("X_train", "y_train", "X_test", "y_test"), ("x", "Y", "x_test", "Y_TEST")]
)
@pytest.mark.parametrize("form", ["npz", "npy"])
def test_arrays_by_the_names_that_people_give_them(tmp_path, names, form):
    x, y = made()
    arrays = dict(zip(names, (x[:40], y[:40].reshape(-1, 1), x[40:], np.eye(3)[y[40:]]), strict=True))
    if form == "npz":
        np.savez(tmp_path / "data.npz", **arrays)
    else:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    data = load("own", tmp_path / "data.npz" if form == "npz" else tmp_path)
    assert rows_of(data) == expected_rows(x, y)
    assert data.test_labels.tolist() == y[40:].tolist()
    assert any("(40, 1) was taken as (40,)" in note for note in data.notes)
    assert any("one-hot" in note for note in data.notes)


def test_an_extra_array_is_named(tmp_path):
    x, y = made()
    np.savez(tmp_path / "data.npz", x=x, y=y, ids=np.arange(60))
    assert load("own", tmp_path / "data.npz").notes == ("not read: ids",)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_have_the_classes_that_they_have(tmp_path, packed):
    random = np.random.default_rng(0)
    for part, count in (("train", 104), ("test", 52)):
        labels = (np.arange(count) % 26 + 1).astype(np.uint8)  # EMNIST's letters: 1 to 26
        images = random.integers(0, 256, (count, 4, 4)).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            path = tmp_path / f"emnist-letters-{part}-{name}-ubyte"
            (path.with_name(f"{path.name}.gz") if packed else path).write_bytes(
                gzip.compress(data) if packed else data
            )
    data = load("own", tmp_path)
    assert data.classes == tuple(map(str, range(1, 27)))
    assert data.num_classes == 26
    assert data.pixels
    assert data.test_labels.tolist() == [number % 26 for number in range(52)]
    (tmp_path / "emnist-digits-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(
        LabError, match=r"one idx file of train images, but it holds emnist-digits.*emnist-letters"
    ):
        load("own", tmp_path)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_last_training_samples_can_be_held_back(tmp_path, grouped):
    x, _ = made(300)
    y = np.sort(np.arange(300) % 3)  # as files are: class after class
    groups = {"groups": np.arange(300) // 6} if grouped else {}
    np.savez(tmp_path / "data.npz", x=x + 10 * np.arange(300)[:, None], y=y, **groups)
    data = load("own", tmp_path / "data.npz")
    held_back = data.train_labels[-data.held_back :]
    assert 40 <= data.held_back <= 56
    assert held_back.bincount(minlength=3).min() >= 6
    if grouped:
        numbers = [
            ((part[:, 3] / 10).round() // 6).long().tolist() for part in (data.train_images, data.test_images)
        ]
        assert not set(numbers[0]) & set(numbers[1])
        assert not set(numbers[0][-data.held_back :]) & set(numbers[0][: -data.held_back])


def test_a_group_in_both_parts_is_refused(tmp_path):
    x, y = made()
    parts = {"x": x[:40], "y": y[:40], "x_test": x[40:], "y_test": y[40:]}
    np.savez(tmp_path / "data.npz", **parts, groups=np.arange(40), groups_test=np.arange(39, 59))
    with pytest.raises(LabError, match="1 groups stand in training and test both, such as '39'"):
        load("own", tmp_path / "data.npz")


def test_sparse_rows_that_are_nearly_dense_are_dense(tmp_path):
    x, y = made()
    lines = (
        f"{label} " + " ".join(f"{place + 1}:{value}" for place, value in enumerate(row))
        for row, label in zip(x, y, strict=True)
    )
    (tmp_path / "letter.scale").write_text("\n".join(lines) + "\n")
    data = load("own", tmp_path / "letter.scale")
    assert isinstance(data.train_images, torch.Tensor)
    assert rows_of(data) == expected_rows(x, y)


# Pixels: one rule.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 7], np.uint8), (0, 255)),
        (np.array([0, 200], np.uint16), (0, 255)),
        (np.array([0, 4000], np.uint16), (0, 4095)),
        (np.array([0, 65535], np.uint16), (0, 65535)),
        (np.array([-100, 300], np.int16), (-100, 300)),
        (np.array([False, True]), (0, 1)),
        (np.array([0.2, 0.7]), (0, 1)),
        (np.array([0.2, 700.0]), (0.2, 700)),
        (np.array([-1.0, 1.0]), (-1, 1)),
    ],
)
def test_the_range_of_pixels(values, expected):
    assert pixel_range(values) == pytest.approx(expected)


def test_what_are_pixels():
    random = np.random.default_rng(0)
    assert are_pixels(random.integers(0, 256, (9, 4)).astype(np.uint8))
    assert not are_pixels(random.integers(0, 16, (9, 4)).astype(np.uint8))  # UCI's letters are such rows
    assert are_pixels(np.zeros((9, 4, 4), np.uint8))
    assert are_pixels(np.zeros((9, 4, 4), np.uint16))
    assert are_pixels(random.uniform(0, 1, (9, 3, 4, 4)))
    assert not are_pixels(random.normal(0, 1, (9, 4, 4)))
    assert not are_pixels(random.uniform(0, 1, (9, 4)))
    assert not are_pixels(scipy.sparse.csr_matrix(np.eye(3)))


def ramp(largest: float) -> np.ndarray:
    return np.linspace(0, largest, 64).reshape(8, 8)


def write_pictures(folder: Path, suffix: str, convert) -> None:
    for label, turn in (("across", 0), ("down", 1)):
        (folder / label).mkdir(parents=True)
        for number in range(5):
            picture = np.rot90(ramp(1.0), turn) * (1 - 0.01 * number)
            convert(picture).save(folder / label / f"{label}{number}{suffix}")


CONVERSIONS = {
    "8 bits": (".png", lambda picture: Image.fromarray((picture * 255).round().astype(np.uint8))),
    "16 bits": (".png", lambda picture: Image.fromarray((picture * 65535).round().astype(np.uint16))),
    "16 bits in TIFF": (".tif", lambda picture: Image.fromarray((picture * 65535).round().astype(np.uint16))),
    "12 bits of 16": (".png", lambda picture: Image.fromarray((picture * 4095).round().astype(np.uint16))),
    "32 bits": (".tiff", lambda picture: Image.fromarray((picture * (2**31 - 1)).round().astype(np.int32))),
    "real numbers": (".tiff", lambda picture: Image.fromarray(picture.astype(np.float32))),
    "real numbers beyond 1": (".tiff", lambda picture: Image.fromarray((picture * 3000).astype(np.float32))),
    "colour": (
        ".png",
        lambda picture: Image.fromarray((picture * 255).round().astype(np.uint8)).convert("RGB"),
    ),
    "palette": (
        ".png",
        lambda picture: Image.fromarray((picture * 255).round().astype(np.uint8)).convert("P"),
    ),
}


@pytest.mark.parametrize("recipe", ["own", "faces"])
@pytest.mark.parametrize("kind", CONVERSIONS)
def test_pictures_of_every_depth_are_the_same_pictures(tmp_path, kind, recipe):
    write_pictures(tmp_path / kind, *CONVERSIONS[kind])
    options = {"size": 8} if recipe == "faces" else {}
    images = load(recipe, tmp_path / kind, **options).test_images.float()
    images = images / 255 if images.max() > 1 else images
    images = images.mean(dim=1) if images.ndim == 4 else images
    expected = np.stack([np.rot90(ramp(1.0), turn) * 0.96 for turn in (0, 1)])
    np.testing.assert_allclose(images.numpy(), expected, atol=0.003)
    assert images.std() > 0.2  # neither all white nor all black


def test_pictures_of_8_and_of_16_bits_in_one_folder(tmp_path):
    for number, kind in enumerate(("8 bits", "16 bits")):
        suffix, convert = CONVERSIONS[kind]
        (tmp_path / kind).mkdir()
        for copy in range(5):
            convert(ramp(1.0)).save(tmp_path / kind / f"{number}{copy}{suffix}")
    images = load("own", tmp_path).train_images
    np.testing.assert_allclose(images.numpy(), np.broadcast_to(ramp(1.0), (8, 8, 8)), atol=0.003)


def test_large_and_unequal_pictures_are_resized_without_leaving_their_range(tmp_path):
    for label, size in (("a", 70), ("b", 20)):
        (tmp_path / label).mkdir()
        for number in range(5):
            picture = np.zeros((size, size), np.uint16)
            picture[size // 2 :] = 65535
            Image.fromarray(picture).save(tmp_path / label / f"{number}.png")
    data = load("own", tmp_path)
    assert data.train_images.shape[1:] == (48, 48)
    assert (float(data.train_images.min()), float(data.train_images.max())) == (0, 1)
    assert any("of 2 sizes became 48×48" in note for note in data.notes)
    assert load("own", tmp_path, size=16).train_images.shape[1:] == (16, 16)


def test_a_picture_of_nan_is_named(tmp_path):
    write_pictures(tmp_path, *CONVERSIONS["real numbers"])
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "down" / "down3.tiff")
    with pytest.raises(LabError, match=r"down3.tiff holds NaN or inf"):
        load("own", tmp_path)


# Groups of pictures.


def write_persons(folder: Path, persons: int = 12, frames: int = 3) -> None:
    """Laid out as the CK+ faces are: S005_001_00000011.png, three frames of a person in each class."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("anger", "fear", "happy")):
        (folder / name).mkdir(parents=True)
        for person in range(persons):
            for frame in range(frames):
                picture = random.integers(0, 256, (8, 8)).astype(np.uint8)
                picture[0] = person  # tells the person
                Image.fromarray(picture).save(folder / name / f"S{person:03}_{label:03}_{frame:08}.png")


def persons_of(images: torch.Tensor) -> set[int]:
    return set(images[:, 0, 0].tolist())


def test_pictures_of_one_person_stay_together(tmp_path):
    write_persons(tmp_path)
    apart = load("own", tmp_path)
    assert persons_of(apart.train_images) & persons_of(apart.test_images)
    assert re.search(
        r"look like sequences \(3 begin with 'S\d+_\d+'\).*--group-by '\^\[\^_-\]\+'", apart.notes[0]
    )
    together = load("own", tmp_path, group_by="^[^_-]+")
    assert not persons_of(together.train_images) & persons_of(together.test_images)
    assert len(together.test_images) + len(together.train_images) == 108
    assert 12 <= len(together.test_images) <= 32
    assert not together.notes
    assert together.checksums != apart.checksums
    held_back, rest = (
        together.train_images[part] for part in (slice(-together.held_back, None), slice(-together.held_back))
    )
    assert not persons_of(held_back) & persons_of(rest)
    grey = load("faces", tmp_path, group_by=r"S(\d+)", size=8)
    assert not persons_of(grey.train_images) & persons_of(grey.test_images)


@pytest.mark.parametrize("names", ["{label}_{number}", "{number}", "IMG{number}", "photo ({number})"])
def test_names_that_only_count_are_no_sequences(tmp_path, names):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(10):
            name = names.format(label=label, number=number)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / label / f"{name}.png")
    assert load("own", tmp_path).notes == ()


def test_expressions_that_do_not_fit(tmp_path):
    write_persons(tmp_path, frames=1)
    with pytest.raises(LabError, match=r"--group-by '\(' is no regular expression"):
        load("own", tmp_path, group_by="(")
    with pytest.raises(LabError, match=r"--group-by 'X\\\\d' matches nothing in 'S000_000_00000000.png'"):
        load("own", tmp_path, group_by=r"X\d")
    with pytest.raises(LabError, match=r"cannot be split.*expected at least 5 groups, got 1"):
        load("own", tmp_path, group_by="^S")


def test_a_person_in_both_folders_is_refused(tmp_path):
    write_persons(tmp_path / "train")
    write_persons(tmp_path / "test")
    assert load("own", tmp_path).num_classes == 3
    with pytest.raises(LabError, match="12 groups stand in training and test both, such as 'S000'"):
        load("own", tmp_path, group_by="^[^_]+")


def test_groups_of_a_table(tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    x, y = made(90)
    persons = np.arange(90) // 3
    x[:, 3] = persons
    lines = [
        ",".join(map(str, (*row, f"p{person}", WORDS[label])))
        for row, person, label in zip(x, persons, y, strict=True)
    ]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,d,person,label", *lines]))
    data = load("own", tmp_path / "data.csv", group_by="person")
    assert data.train_images.shape[1] == 4
    assert not set(data.train_images[:, 3].tolist()) & set(data.test_images[:, 3].tolist())


# What is refused says what it is, and what would do.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.xlsx", b"PK", "is a spreadsheet; save it as CSV"),
        ("data.zip", b"PK", "is packed; unpack it"),
        ("data.pkl", b"\x80", "is a pickle"),
        ("data.mat", b"MATLAB", "is a MATLAB or HDF5 file"),
        ("photo.jpg", b"\xff\xd8", "is one picture; name the folder"),
        ("data.npy", b"", "is one array; expected x and y"),
        ("data.bin", bytes(range(256)), "expected `label index:value"),
    ],
)
def test_other_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabError, match=f"{name}.*{message}"):
        load("own", tmp_path / name)


def test_a_folder_of_something_else_names_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        LabError, match=r"holds 0 folders and the files notes.txt; expected one for each class.*\.npz"
    ):
        load("own", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "a"}, "take no --label"),
        ({"group_by": "a"}, "take no --group-by"),
        ({"size": 9}, "take no --image-size"),
    ],
)
def test_options_that_the_data_do_not_take(tmp_path, options, message):
    x, y = made()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    with pytest.raises(LabError, match=f"holds arrays, which {message}"):
        load("own", tmp_path / "data.npz", **options)
    with pytest.raises(LabError, match=r"mnist takes none of those given"):
        load("mnist", tmp_path, **options)


@pytest.mark.parametrize("change", ["value", "label", "test value", "test file"])
def test_the_checksums_are_of_all_that_was_read(tmp_path, change):
    x, y = made()
    path = tmp_path / "data.txt"

    def write(x, y, where):
        lines = (f"{label} 1:{row[0]} 30:{row[1]}" for row, label in zip(x, y, strict=True))
        where.write_text("\n".join(lines) + "\n")

    write(x[:40], y[:40], path)
    write(x[40:], y[40:], tmp_path / "data.txt.t")
    before = load("own", path).checksums
    assert load("own", path).checksums == before
    match change:
        case "value":
            x[3, 0] += 0.5
        case "label":
            y[3] = (y[3] + 1) % 3
        case "test value":
            x[43, 0] += 0.5
        case "test file":
            (tmp_path / "data.txt.t").unlink()
    if change != "test file":
        write(x[:40], y[:40], path)
        write(x[40:], y[40:], tmp_path / "data.txt.t")
    assert load("own", path).checksums != before


def test_a_picture_that_changes_its_class_changes_the_checksums(tmp_path):
    write_pictures(tmp_path, *CONVERSIONS["8 bits"])
    before = load("own", tmp_path).checksums
    (tmp_path / "across" / "across4.png").rename(tmp_path / "down" / "across4.png")
    (tmp_path / "down" / "down0.png").rename(tmp_path / "across" / "down0.png")
    assert load("own", tmp_path).checksums != before


# What tables of other people hold.


def table(path: Path, text: str, **options):
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    path.write_text(text, encoding="utf-8")
    return load("own", path, **options)


def rows(count: int = 40) -> list[str]:
    return [f"{number % 7},{number % 2}.5,{'no' if number % 2 else 'yes'}" for number in range(count)]


@pytest.mark.parametrize("head", ["0,1,2", "1,2,3", "u,v,label", "a,2019,kind", "2019,2020,label"])
def test_a_first_line_that_names_columns_is_no_sample(tmp_path, head):
    data = table(tmp_path / "data.csv", "\n".join([head, *rows()]) + "\n")
    assert len(data.train_labels) + len(data.test_labels) == 40


def test_whole_numbers_that_count_the_columns_are_their_names(tmp_path):
    lines = [f"{number % 7},{number % 5},{number % 2}" for number in range(40)]
    data = table(
        tmp_path / "data.csv", "\n".join(["0,1,2", *lines])
    )  # as pandas writes a table without names
    assert len(data.train_labels) + len(data.test_labels) == 40
    assert data.classes == ("0", "1")
    data = table(tmp_path / "data.csv", "\n".join(lines))
    assert any("the first line is taken as a row" in note for note in data.notes)


def test_decimal_commas(tmp_path):
    lines = [f"{number % 7},5;-{number % 3},25;{'no' if number % 2 else 'yes'}" for number in range(40)]
    data = table(tmp_path / "data.csv", "\n".join(["u;v;label", *lines]))
    assert data.train_images.shape[1] == 2
    assert set((data.train_images[:, 0] * 2 % 2).tolist()) == {1.0}


@pytest.mark.parametrize("odd", ["?", "x", "1.2.3", "5%", "NA", "0x1f"])
def test_a_place_among_numbers_that_holds_none_is_an_error(tmp_path, odd):
    lines = rows()
    lines[4] = f"{odd},0.5,yes"
    with pytest.raises(LabError, match=r"line 6, column 'u' holds (nothing|'.*', no number)"):
        table(tmp_path / "data.csv", "\n".join(["u,v,label", *lines]))


def test_lines_are_counted_with_the_blank_ones(tmp_path):
    lines = ["u,v,label", "", "", *rows(), ",1.5,yes"]
    with pytest.raises(LabError, match="line 44, column 'u' holds nothing"):
        table(tmp_path / "data.csv", "\n".join(lines))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("01", "1", "2"), ("01", "1", "2")),
        (("NA", "EU", "US"), ("EU", "NA", "US")),
        (("9", "10", "11"), ("9", "10", "11")),
    ],
)
def test_classes_are_told_apart_by_what_is_written(tmp_path, classes, expected):
    lines = [f"{number % 7},{classes[number % 3]}" for number in range(60)]
    assert table(tmp_path / "data.csv", "\n".join(["u,label", *lines])).classes == expected


@pytest.mark.parametrize(
    ("head", "end"), [('"u, m";"v, t";label', ""), ("u ; v; label ", ""), ("u;v;label", ";")], ids=range(3)
)
def test_quotes_spaces_and_a_separator_at_the_end(tmp_path, head, end):
    lines = [line.replace(",", ";") + end for line in rows()]
    data = table(tmp_path / "data.csv", "\n".join([head, *lines]))
    assert data.train_images.shape[1] == 2
    assert data.classes == ("no", "yes")


def test_ids_and_other_encodings(tmp_path):
    lines = [f"id{number},{line}" for number, line in enumerate(rows())]
    with pytest.raises(LabError, match="the column 'id' holds 40 different words in 40 rows, such as 'id0'"):
        table(tmp_path / "data.csv", "\n".join(["id,u,v,label", *lines]))
    (tmp_path / "latin.csv").write_bytes("u,v,label\n1,2,für\n".encode("latin-1"))
    with pytest.raises(LabError, match=r"latin.csv is not UTF-8.*save it as UTF-8"):
        load("own", tmp_path / "latin.csv")


@pytest.mark.parametrize("change", [lambda x: 1.7e9 + x, lambda x: x * 1e-60, lambda x: x * 1e60])
def test_what_float32_cannot_hold_is_standardized_as_it_was_read(tmp_path, change):
    x = np.column_stack([np.random.default_rng(0).normal(size=100).round(3) * 10, np.arange(100.0)])
    np.savez(tmp_path / "data.npz", x=np.column_stack([change(x[:, 0]), x[:, 1]]), y=np.arange(100) % 2)
    data = load("own", tmp_path / "data.npz")
    (one,) = own(["baseline"], seeds=1, learning_rates="paper")
    images, _, test_images, _ = split(one, data, torch.device("cpu"))
    assert images.dtype == torch.float32
    together = torch.cat([images, test_images]).double().numpy()
    order = np.argsort(together[:, 1])  # the second column tells the rows
    np.testing.assert_allclose(np.corrcoef(together[order, 0], x[:, 0])[0, 1], 1, atol=1e-6)


def test_numbers_beyond_float32_are_refused_where_nobody_standardizes(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.linspace(1, 9, 40).reshape(20, 2) * 1e60, y=np.arange(20) % 2)
    data = load("own", tmp_path / "data.npz")
    (one,) = own(["baseline"], seeds=1, learning_rates="paper", standardize=False)
    with pytest.raises(LabError, match=r"beyond float32's range.*standardize them"):
        split(one, data, torch.device("cpu"))


def test_parts_of_other_types_are_not_scaled_alike(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 5, 5)).astype(np.uint8)
    y = np.arange(40) % 2
    np.savez(tmp_path / "data.npz", x=x, y=y, x_test=x / 255, y_test=y)
    with pytest.raises(LabError, match="the pixels of x are uint8, those of x_test float64; give both"):
        load("own", tmp_path / "data.npz")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_drawn_in_the_transparency_stays(tmp_path, mode):
    for label, half in (("left", 0), ("right", 4)):
        (tmp_path / label).mkdir()
        for number in range(5):
            picture = np.zeros((8, 8, len(mode)), np.uint8)
            picture[:, half : half + 4, -1] = 255
            Image.fromarray(picture, mode).save(tmp_path / label / f"{number}.png")
            (tmp_path / label / f"._{number}.png").write_bytes(b"a Mac's")
    images = load("own", tmp_path).train_images
    assert len(images.flatten(1).unique(dim=0)) == 2


def test_labels_of_other_kinds(tmp_path):
    x = np.arange(80).reshape(40, 2) / 1.0
    y = np.arange(40) % 2
    np.savez(tmp_path / "data.npz", x=x, y=y, x_test=x[:10], y_test=y[:10].astype(str))
    data = load("own", tmp_path / "data.npz")
    assert (data.classes, data.notes) == (("0", "1"), ())
    np.savez(tmp_path / "data.npz", x=x, y=np.array([b"a", b"b"])[y])
    assert load("own", tmp_path / "data.npz").classes == ("a", "b")
    for wrong in (y * 1j, np.zeros(40, [("a", int)])):
        np.savez(tmp_path / "data.npz", x=x, y=wrong)
        with pytest.raises(LabError, match="y must hold numbers or words, got"):
            load("own", tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", x=x, y=y, groups_test=y)
    with pytest.raises(LabError, match="expected x and y"):
        load("own", tmp_path / "data.npz")
    parts = {"x": x[:30], "y": y[:30], "x_test": x[30:], "y_test": y[30:]}
    np.savez(tmp_path / "data.npz", **parts, groups=np.arange(30))
    with pytest.raises(LabError, match="groups and groups_test belong together"):
        load("own", tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", **parts, groups=np.arange(30), groups_test=np.arange(10).astype(str))
    with pytest.raises(LabError, match="10 groups stand in training and test both"):
        load("own", tmp_path / "data.npz")


def test_an_index_that_is_too_large_is_named(tmp_path):
    (tmp_path / "data").write_text("0 1:3\n1 2147483653:2\n")
    with pytest.raises(LabError, match="data, line 2: expected"):
        load("own", tmp_path / "data")


def test_one_sample_of_a_class_is_named(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.ones((20, 2)), y=np.array(["a"] * 19 + ["rare"]))
    with pytest.raises(LabError, match="of rare there is one sample only"):
        load("own", tmp_path / "data.npz")


def test_how_data_were_read_is_in_the_record(tmp_path):
    data = table(tmp_path / "data.csv", "\n".join(["u,v,kind", *rows()]), label="kind")
    assert data.described()["label"] == "kind"
