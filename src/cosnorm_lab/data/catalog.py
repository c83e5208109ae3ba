"""Which data sets are known: their files, checksums and mirrors."""

from dataclasses import dataclass

from cosnorm_lab.errors import LabError


@dataclass(frozen=True)
class DataFile:
    """One official file.

    Attributes:
        name: file name once unpacked; the packed file has ".gz" behind it.
        md5: checksum of the unpacked bytes, which is the same however they were packed.
    """

    name: str
    md5: str


@dataclass(frozen=True)
class DataFiles:
    """A data set that comes as four idx files.

    Attributes:
        name: name of the data set.
        description: one line for `cosnorm list`.
        parts: "train_images", "train_labels", "test_images" and "test_labels".
        num_classes: number of classes.
        mirrors: addresses, each ending in "/", that serve the packed files; tried in turn.
    """

    name: str
    description: str
    parts: dict[str, DataFile]
    num_classes: int
    mirrors: tuple[str, ...]


@dataclass(frozen=True)
class Archive:
    """A data set that comes as one packed archive, or as a few files.

    Attributes:
        name: name of the data set.
        description: one line for `cosnorm list`.
        file: name of the archive; None where the files are served as they are.
        md5: its checksum, or None where the official one is not known.
        inside: folder that unpacking makes.
        members: the files that are read, with the md5 of each where it is known.
        mirrors: addresses, each ending in "/", that serve the archive or the files; tried in turn.
    """

    name: str
    description: str
    file: str | None
    md5: str | None
    inside: str
    members: dict[str, str | None]
    mirrors: tuple[str, ...]


CIFAR10 = Archive(
    name="cifar10",
    description="CIFAR-10, 50,000 + 10,000 colour images of 32x32 pixels, 10 classes (170 MB)",
    file="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    inside="cifar-10-batches-bin",
    members={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
)

CIFAR100 = Archive(
    name="cifar100",
    description="CIFAR-100, 50,000 + 10,000 colour images of 32x32 pixels, 100 classes (169 MB)",
    file="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    inside="cifar-100-binary",
    members={"train.bin": None, "test.bin": None},  # the archive's checksum is known, theirs is not
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
)

NEWSGROUPS = Archive(
    name="20news",
    description="20 Newsgroups, bydate, as word counts: 11,269 + 7,505 documents (8 MB)",
    file="20news-bydate-matlab.tgz",
    md5=None,  # its author publishes none
    inside="20news-bydate/matlab",
    members={f"{part}.{kind}": None for part in ("train", "test") for kind in ("data", "label", "map")},
    mirrors=("http://qwone.com/~jason/20Newsgroups/",),
)

SVHN = Archive(
    name="svhn",
    description="street view house numbers, 73,257 + 26,032 colour images of 32x32 pixels (246 MB)",
    file=None,
    md5=None,
    inside="svhn",
    members={
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    },
    mirrors=("http://ufldl.stanford.edu/housenumbers/",),
)

SHAKESPEARE = Archive(
    name="tinyshakespeare",
    description="plays, 1,115,394 characters, 65 different ones (1 MB)",
    file=None,
    md5=None,
    inside="tinyshakespeare",
    members={"input.txt": "6fb458f1232090904fb40fe944165e91"},
    mirrors=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
)

MNIST = DataFiles(
    name="mnist",
    description="handwritten digits, 60,000 + 10,000 images of 28x28 pixels (11 MB)",
    parts={
        "train_images": DataFile("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        "train_labels": DataFile("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
        "test_images": DataFile("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        "test_labels": DataFile("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    },
    num_classes=10,
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)

FETCHED = {MNIST.name: MNIST}
ARCHIVES = {archive.name: archive for archive in (CIFAR10, CIFAR100, SVHN, NEWSGROUPS, SHAKESPEARE)}
SHIPPED = {
    "digits": "handwritten digits that scikit-learn ships, 1,797 images of 8x8 pixels",
    "own": "your own data (--data-dir): arrays, a table, folders of pictures, idx files or svmlight",
    "faces": "facial expressions: a folder of images for each class (--data-dir), else drawn pictures",
}


def find(name: str) -> DataFiles:
    """The entry of a data set that is read from files.

    Raises:
        LabError: there is no such data set.
    """
    if name not in FETCHED:
        known = ", ".join([*FETCHED, *ARCHIVES, *SHIPPED])
        raise LabError(f"unknown data set {name!r}; known are {known} (`cosnorm list`)")
    return FETCHED[name]
