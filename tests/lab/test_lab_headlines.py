"""What the page says first, from made-up records whose answers are known."""

import dataclasses

import pytest
import scipy.stats
from report_records import config, write_record

from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.report.answer_figure import answer_picture, marks
from cosnorm_lab.report.answers import Answers, answers, parts_of, title
from cosnorm_lab.report.claims import CLAIMS
from cosnorm_lab.report.headlines import Headline
from cosnorm_lab.report.page import write_report
from cosnorm_lab.report.quantities import QUANTITIES


def made(folder, figures, recipe="fair", **changes):
    """Runs of methods whose errors are the same after each epoch: a number a seed."""
    return [
        write_record(
            folder, config(method, recipe=recipe, epochs=4, seed=seed, **changes), errors=[value] * 4
        )
        for method, values in figures.items()
        for seed, value in enumerate(values)
    ]


def of(runs, name: str) -> Headline:
    return {one.claim.name: one for one in answers(parts_of(runs)).headlines}[name]


def test_claims_speak_of_recipes_that_there_are():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert {claim.recipe for claim in CLAIMS} <= set(RECIPES)
    assert {claim.quantity for claim in CLAIMS} <= set(QUANTITIES)
    assert all(claim.against for claim in CLAIMS if claim.over)
    for claim in CLAIMS:
        planned = RECIPES[claim.recipe].configs()
        for fields in (claim.ours, claim.against or {}):
            names = [name for name in fields if name != "init_std"]  # of the two readings one is planned
            assert any(all(getattr(one, name) == fields[name] for name in names) for one in planned), claim
    assert sum(claim.top for claim in CLAIMS) == 10


def test_ahead_of_the_best_rival(tmp_path):
    ours, best, other = [138, 141, 135], [150, 154, 147], [190, 200, 180]
    runs = made(tmp_path, {"cosine": ours, "centered": [1, 2, 3], "batch": best, "baseline": other})
    found = of(runs, "fair")
    ps = [scipy.stats.ttest_rel(ours, one).pvalue for one in (best, other)]
    assert found.other.name == "batch norm"  # centered cosine is no rival, however few its errors
    assert found.p == pytest.approx(min(ps[0] * 2, 1) if ps[0] < ps[1] else max(ps[0], ps[1] * 2))
    assert found.word == "ahead"
    assert found.sides == "cosine 138.0 ± 7.5 (1.38 ± 0.07 %), batch norm 150.3 ± 8.7 (1.50 ± 0.09 %)"
    assert found.counted == "errors of 10,000"
    assert "Of 2 rivals with several seeds it is ahead of" in found.further[0]


def test_the_other_direction_is_behind(tmp_path):
    found = of(made(tmp_path, {"cosine": [150, 154, 147], "batch": [138, 141, 135]}), "fair")
    assert found.word == "behind"
    assert found.order.mean == pytest.approx(37 / 3)
    assert found.said == "p < 0.001, paired over 3 seeds"


def test_what_several_tests_do_not_support_is_level(tmp_path):
    """p = 0.028 alone, 0.055 as the smallest of two: Holm's correction turns the word."""
    figures = {"cosine": [136, 140, 141], "batch": [144, 145, 146], "layer": [150, 190, 139]}
    ps = {
        method: scipy.stats.ttest_rel(figures["cosine"], figures[method]).pvalue
        for method in ("batch", "layer")
    }
    assert ps["batch"] < 0.05 < 2 * ps["batch"] < ps["layer"]
    found = of(made(tmp_path / "two", figures), "fair")
    assert found.p == pytest.approx(2 * ps["batch"])
    assert found.word == "level"
    assert "ahead in the mean" in found.said
    assert "not supported" in found.said
    assert "before Holm’s correction for 2 rivals" in found.said
    del figures["layer"]
    assert of(made(tmp_path / "one", figures), "fair").word == "ahead"


def test_one_seed_is_said(tmp_path):
    found = of(made(tmp_path, {"cosine": [140, 142], "max": [130]}, "mnist-table1"), "table-1")
    assert (found.word, found.said) == ("behind, no test", "one seed: no test")
    assert found.p is None


@pytest.mark.parametrize(
    ("errors", "word", "said"),
    [
        ([140, 142, 144], "reproduced", "142.0 ± 5.0 reproduces the paper’s 143.9"),
        ([130, 131, 132], "better", "131.0 ± 2.5 is better than the paper’s 143.9"),
        ([160, 170, 165], "not reproduced", "165.0 ± 12.4 does not reproduce the paper’s 143.9"),
    ],
)
def test_the_papers_figure(tmp_path, errors, word, said):
    found = of(made(tmp_path, {"cosine": errors}, "mnist-table1"), "table-1")
    assert found.paper_word == found.word == word
    p = scipy.stats.ttest_1samp(errors, 143.922).pvalue
    assert found.beside.p == pytest.approx(p)
    assert found.said_of_paper.startswith(said)


def test_what_was_not_run_is_said_and_other_files_are_no_claim_of_the_paper(tmp_path):
    runs = made(tmp_path / "a", {"cosine": [140]}, "mnist-table1")
    found = answers(parts_of(runs))
    assert {one.word for one in found.headlines if one.claim.recipe != "mnist-table1"} == {"not run"}
    assert len(found.top) == 10
    mine = {"exact": False, "checksums": {"a": "b"}}
    other = [
        write_record(tmp_path / "b", config(method, epochs=4), data=mine, errors=[errors] * 4)
        for method, errors in (("cosine", 140), ("max", 150))
    ]
    (only,) = answers(parts_of(other)).headlines
    assert only.claim.text == "cosine has the fewest errors in the mean"
    assert only.paper is None


def test_fair_comparisons_stand_before_the_papers_settings(tmp_path):
    runs = [
        *made(tmp_path, {"cosine": [140, 141], "max": [150, 152]}, "mnist-table1"),
        *made(tmp_path, {"cosine": [140, 141], "max": [150, 151]}, "fair"),
    ]
    found = answers(parts_of(runs))
    names = [one.claim.name for one in found.top]
    assert names[:2] == ["fair", "drop-in"]
    assert names.index("table-1") == len(found.fair)
    text = _page(runs, tmp_path)
    assert text.index('<section id="fair"') < text.index('<section id="mnist-table1"')
    assert "In one fair comparison cosine is ahead in 1 (MNIST, own best rates)." in text
    assert "1 reproduced" in text


def _page(runs, folder) -> str:
    write_report(runs, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_settings_are_averaged_by_seed(tmp_path):
    configs = RECIPES["drop-in"].configs(["norm", "converted"], batch_size=100, network="cnn", epochs=4)
    errors = {
        ("norm", "sgd"): 50,
        ("norm", "adamw"): 60,
        ("converted", "sgd"): 40,
        ("converted", "adamw"): 52,
    }
    runs = [
        write_record(
            tmp_path, one, errors=[100 * (errors[one.method, one.optimizer] + one.seed * one.seed)] * 4
        )
        for one in configs
        if one.seed < 2 or one.method == "norm"  # seed 2 of the converted is missing
    ]
    found = of(runs, "drop-in")
    assert found.sides == "converted 53.5 ± 6.4 %, batch or layer norm 44.5 ± 6.4 %"
    assert found.order.mean == pytest.approx(-9)
    assert found.word == "ahead"
    assert found.further == ("Means over 2 settings; each for itself: ahead in 2.",)


def test_where_cosine_loses(tmp_path):
    runs = made(tmp_path, {"cosine": [150, 154, 147], "max": [138, 141, 135], "batch": [149, 156, 145]})
    runs += made(tmp_path, {"cosine": [170], "max": [160], "centered": [150]}, "news-table3")
    found = answers(parts_of(runs))
    assert [(one.anchor, one.other.name, one.difference.word) for one in found.lost] == [
        ("fair", "max norm", "behind"),
        ("news-table3", "max norm", "behind, no test"),
    ]
    assert len(found.behind) == 3  # batch norm's lead is not supported
    text = _page(runs, tmp_path)
    lost = text.split("Where cosine loses")[1]
    assert "max norm 138.0 ± 7.5; cosine 150.3 ± 8.7 errors of 10,000" in lost
    assert "centered cosine is not: 150.0" in lost
    assert "1 more setting has a method that is ahead of cosine in the mean" in lost


OWN = {"exact": False, "checksums": {"f": "aa"}, "file": "letters.csv", "train": 800, "test": 500}


def own(folder, method, errors, rate=1.0, seed=0, chance=None):
    run = write_record(
        folder,
        config(method, recipe="own", dataset="own", epochs=4, hidden=(8,), learning_rate=rate, seed=seed),
        errors=[errors] * 4,
        data=OWN,
        extra={"count": 500},
    )
    return run if chance is None else dataclasses.replace(run, start={**run.start, "chance": chance})


def test_own_data_say_which_method_at_which_rate(tmp_path):
    runs = [
        *(own(tmp_path, "centered", errors, 3.0, seed) for seed, errors in enumerate((20, 22, 21))),
        *(own(tmp_path, "cosine", errors, 3.0, seed) for seed, errors in enumerate((24, 22, 26))),
        *(own(tmp_path, "batch", errors, 0.1, seed) for seed, errors in enumerate((21, 22, 25))),
        own(tmp_path, "batch", 60, 1.0),
        own(tmp_path, "max", 440, 1.0, chance=440),
    ]
    found = answers(parts_of(runs))
    (one,) = found.headlines
    p = scipy.stats.ttest_rel((20, 22, 21), (21, 22, 25)).pvalue
    assert p > 0.05
    assert one.claim.text == "centered cosine has the fewest errors in the mean"
    assert one.sides == (
        "centered cosine (lr 3) 21.0 ± 2.5 (4.2 ± 0.5 %), batch norm (lr 0.1) 22.7 ± 5.2 (4.5 ± 1.0 %)"
    )
    assert one.word == "level"
    of_cosine = scipy.stats.ttest_rel((20, 22, 21), (24, 22, 26)).pvalue
    corrected = max(2 * of_cosine, p)  # Holm: the smaller of two counts twice
    assert of_cosine < p < corrected
    assert one.said == (
        f"ahead in the mean, p = {corrected:.2g}: not supported; paired over 3 seeds; "
        f"p = {p:.2g} before Holm’s correction for 2 rivals"
    )
    low, high = scipy.stats.binomtest(21, 500).proportion_ci(method="wilson")
    assert f"500 test samples alone leave {100 * low:.3g} to {100 * high:.3g} % open" in one.further[1]
    further = " ".join(one.further)
    assert "At chance: max norm." in further
    assert "flatters the best" in further  # two rates of batch norm
    assert "centered cosine |w| 3.61, effective learning rate lr/|w|² 0.0768" in further
    assert title(found) == "Which method has the fewest errors on letters.csv?"
    text = _page(runs, tmp_path)
    assert "Which method, at which rate" in text
    assert "paper’s errors" not in text


def test_data_on_which_all_only_guess(tmp_path):
    runs = [own(tmp_path, method, errors, chance=400) for method, errors in (("cosine", 399), ("max", 405))]
    (one,) = answers(parts_of(runs)).headlines
    assert one.claim.text.startswith("no method is better than always guessing")


def test_the_figure_holds_the_differences_and_their_intervals(tmp_path):
    ours, theirs = [138, 141, 135], [150, 154, 147]
    found = answers(parts_of(made(tmp_path, {"cosine": ours, "batch": theirs})))
    (mark,) = marks(found.fair[0])
    low, high = scipy.stats.ttest_rel(ours, theirs).confidence_interval()
    share = 100 * 3 / sum(theirs)
    assert (mark.low, mark.high) == pytest.approx((share * low, share * high))
    picture = answer_picture(found.top)
    assert [text for _, text in picture.charts[0].y.ticks] == ["MNIST, own best rates"]
    assert answer_picture([]) is None


def test_records_of_other_recipes_alone_still_have_a_page(tmp_path):
    text = _page([write_record(tmp_path / "runs", config(epochs=4, recipe="unknown"))], tmp_path)
    assert "<h1>Normalizations compared</h1>" in text
    assert Answers((), ()).summary == []


def test_the_rival_on_own_data_is_the_next_best_whatever_it_is(tmp_path):
    runs = [
        *(own(tmp_path, "batch", errors, 0.1, seed) for seed, errors in enumerate((20, 22, 21))),
        *(own(tmp_path, "layer", errors, 0.1, seed) for seed, errors in enumerate((21, 22, 20))),
        *(own(tmp_path, "cosine", errors, 3.0, seed) for seed, errors in enumerate((44, 42, 46))),
    ]
    (one,) = answers(parts_of(runs)).headlines
    assert one.other.name == "layer norm (lr 0.1)"
    assert one.word == "level"
