import torch

from cosnorm_lab.data import load
from cosnorm_lab.data.digits import load_digits


def test_sizes_types_and_range():
    digits = load_digits()
    assert digits.name == "digits"
    assert digits.num_classes == 10
    assert digits.train_images.shape == (1297, 64)
    assert digits.test_images.shape == (500, 64)
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == torch.float32
        assert (images.min(), images.max()) == (0.0, 1.0)
    assert digits.train_labels.dtype == digits.test_labels.dtype == torch.int64


def test_split_is_stratified_and_loses_no_image():
    import sklearn.datasets

    digits = load_digits()
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    expected = torch.from_numpy(labels).bincount()
    train, test = digits.train_labels.bincount(minlength=10), digits.test_labels.bincount(minlength=10)
    assert torch.equal(train + test, expected)
    assert torch.all((test - expected * 500 / 1797).abs() < 1)
    rows = torch.cat([digits.train_images, digits.test_images]) * 16
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, pixels.tolist()))


def test_images_keep_their_labels():
    import sklearn.datasets

    digits = load_digits()
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    known = {tuple(row): int(label) for row, label in zip(pixels.tolist(), labels, strict=True)}
    found = [known[tuple(row)] for row in (digits.test_images * 16).tolist()]
    assert found == digits.test_labels.tolist()


def test_always_the_same_split():
    first, second = load_digits(), load("digits")
    assert first.checksums == second.checksums
    assert torch.equal(first.test_images, second.test_images)
    # Records made on one machine are comparable with another's only if this stays.
    assert first.checksums["test_labels"][:16] == "bd2e9b7c2aa9b6b5"
