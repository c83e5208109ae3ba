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
SHIPPED = {
    "digits": "handwritten digits that scikit-learn ships, 1,797 images of 8x8 pixels",
    "faces": "facial expressions: a folder of images for each class (--data-dir), else drawn pictures",
}


def find(name: str) -> DataFiles:
    """The entry of a data set that is read from files.

    Raises:
        LabError: there is no such data set.
    """
    if name not in FETCHED:
        known = ", ".join([*FETCHED, *SHIPPED])
        raise LabError(f"unknown data set {name!r}; known are {known} (`cosnorm list`)")
    return FETCHED[name]
