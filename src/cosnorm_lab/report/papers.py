"""What the paper prints of a series, where its runs are of the paper's data."""

from collections.abc import Iterable

from cosnorm_lab.data.catalog import ARCHIVES, FETCHED
from cosnorm_lab.recipes import published
from cosnorm_lab.recipes.published import Published
from cosnorm_lab.records import Run
from cosnorm_lab.report.series import Series


def checksums_known(dataset: str) -> bool:
    """Whether a data set's official checksums are known, so that other files can be told from them."""
    archive = ARCHIVES.get(dataset)
    return dataset in FETCHED or (archive is not None and all(archive.members.values()))


def other_files(runs: Iterable[Run]) -> bool:
    """Whether runs are of other files than a data set's official ones, where those are known."""
    return any(not run.start["data"]["exact"] and checksums_known(run.config.dataset) for run in runs)


def paper_of(series: Series) -> Published:
    """The paper's figures for a series; none for runs on other files than the official ones."""
    return Published() if other_files(series.runs) else published(series.config)
