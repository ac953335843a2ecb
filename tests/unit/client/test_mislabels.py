"""Mislabels jobs of the SDK and the command line: what is sent, and what is made of the answers."""

import json

import numpy as np
import pytest

import undue
from undue import _convert_mislabels
from undue.cli.main import main
from undue.v1 import mislabels_pb2

from .conftest import diagnostics_message

DATA = {"train": "d", "test": "t"}


def asked(fake):
    return fake.requests[-1].job.mislabels


def test_what_is_asked(fake, client) -> None:
    job = client.mislabels("m", **DATA)
    assert isinstance(job, undue.MislabelsJob)
    sent = asked(fake)
    assert (sent.model, sent.train, sent.test, sent.flip) == ("models/m", "datasets/d", "datasets/t", 0.1)
    assert (sent.seeds, sent.folds, list(sent.rankings), list(sent.budgets)) == (10, 5, [], [])
    client.mislabels(
        "m",
        **DATA,
        known={3: 1, np.int64(5): np.int64(0)},
        budgets=(0.1, 0.5),
        seeds=2,
        seed=7,
        rankings=["random", "loss", "self_influence"],
        folds=3,
        method="ekfac",
        damping=0.5,
        leverage_correction=False,
        start="cold",
    )
    sent = asked(fake)
    assert (list(sent.known.rows), list(sent.known.labels)) == ([3, 5], [1, 0])
    assert list(sent.rankings) == [
        mislabels_pb2.RANKING_RANDOM,
        mislabels_pb2.RANKING_LOSS,
        mislabels_pb2.RANKING_SELF_INFLUENCE,
    ]
    assert (list(sent.budgets), sent.seed, sent.method, sent.damping) == ([0.1, 0.5], 7, "ekfac", 0.5)
    assert sent.start == mislabels_pb2.MislabelsSpec.START_COLD
    client.mislabels("m", **DATA, known=np.array([4, 2]))
    assert (list(asked(fake).known.rows), list(asked(fake).known.labels)) == ([4, 2], [])
    listed = client.suspects("m", train="d", top_k=7)
    assert isinstance(listed, undue.SuspectsJob)
    assert (asked(fake).suspects, asked(fake).HasField("seeds"), asked(fake).test) == (7, False, "")
    assert (job.kind, listed.kind) == ("mislabels", "mislabels")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"flip": 0}, "flip"),
        ({"flip": 0.7}, "flip"),
        ({"flip": "much"}, "flip"),
        ({"flip": 0.1, "known": [1]}, "flip"),
        ({"known": []}, "known"),
        ({"known": [1, 1]}, "known"),
        ({"known": {1: -2}}, "known"),
        ({"known": {1: "spam"}}, "known"),
        ({"budgets": []}, "budgets"),
        ({"budgets": [2]}, "budgets"),
        ({"budgets": 0.1}, "budgets"),
        ({"rankings": 5}, "rankings"),
        ({"method": 5}, "method"),
        ({"leverage_correction": 1}, "leverage_correction"),
        ({"seeds": 0}, "seeds"),
        ({"seed": -1}, "seed"),
        ({"rankings": "loss"}, "rankings"),
        ({"rankings": []}, "rankings"),
        ({"rankings": ["guess"]}, "rankings"),
        ({"start": "hot"}, "start"),
        ({"damping": -1}, "damping"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(fake, client, changes, field) -> None:
    before = len(fake.requests)
    with pytest.raises(undue.InvalidArgument) as caught:
        client.mislabels("m", **DATA, **changes)
    assert caught.value.violations[0].field == field
    assert len(fake.requests) == before


def result(seeds):
    mean = mislabels_pb2.SeedMean(value=0.5, low=0.4, high=0.6, by_seed=[0.5] * seeds)
    points = [
        mislabels_pb2.MislabelPoint(budget=b, checked=int(100 * b), found=mean, accuracy=mean) for b in (0.05, 0.1)
    ]
    curves = [
        mislabels_pb2.MislabelCurve(
            ranking=ranking, points=points, wrong=9, accuracy_right=0.93, accuracy_wrong=[0.8] * seeds
        )
        for ranking in (mislabels_pb2.RANKING_LOSS, mislabels_pb2.RANKING_RANDOM)
    ]
    from undue import _convert_jobs

    return _convert_mislabels.mislabels_result("jobs/j", curves, _convert_jobs.diagnostics(diagnostics_message()))


def test_curves_print_themselves() -> None:
    found = result(3)
    for text in (str(found), found._repr_html_()):
        assert all(part in text for part in ("5 %", "10 %", "0.500 ±0.100", "9 wrong rows", "0.930 without", "0.800"))
    assert "±" not in str(result(1)).split("\n")[2]
    assert repr(found) == "<MislabelsResult: 3 repetitions, at budget 0.1 found loss 0.500, random 0.500>"
    table = found.to_pandas()
    assert list(table.columns) == ["ranking", "budget", "checked", "repetition", "found", "accuracy"]
    assert len(table) == 2 * 2 * 3


def test_suspects_print_themselves() -> None:
    from undue import _convert_jobs
    from undue.v1 import tensors_pb2

    suspects = [
        mislabels_pb2.Suspect(
            ranking=ranking,
            row=row,
            id=f"<b>{row}",
            score=1.0,
            target=tensors_pb2.Value(label=1),
            prediction=tensors_pb2.Value(label=0),
            loss=2.5,
        )
        for ranking, rows in ((mislabels_pb2.RANKING_LOSS, (1, 2)), (mislabels_pb2.RANKING_MARGIN, (2, 3)))
        for row in rows
    ]
    found = _convert_mislabels.suspects_result(suspects, None, _convert_jobs.diagnostics(diagnostics_message()))
    assert "<b>" in str(found)
    assert "<b>" not in found._repr_html_()
    assert found.overlap.tolist() == [[1.0, 0.5], [0.5, 1.0]]
    assert found.votes()[2] == ("loss", "margin")
    assert next(iter(found.votes())) == 2
    assert list(found.to_pandas()["train_row"]) == [1, 2, 2, 3]


def test_the_command_line_asks_the_same(fake, client, monkeypatch, capsys) -> None:
    monkeypatch.setenv("UNDUE_ADDRESS", fake.address)
    words = ["mislabels", "m", "--train", "d", "--test", "t", "--known", "3=1", "5=0", "--rankings", "loss", "random"]
    assert main([*words, "--budgets", "0.1", "0.2", "--seeds", "4", "--no-wait", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "mislabels"
    sent = asked(fake)
    assert (list(sent.known.rows), list(sent.known.labels), sent.seeds) == ([3, 5], [1, 0], 4)
    assert main(["mislabels", "m", "--train", "d", "--test", "t", "--known", "3", "5", "--no-wait"]) == 0
    assert (list(asked(fake).known.rows), list(asked(fake).known.labels)) == ([3, 5], [])
    assert main(["suspects", "m", "--train", "d", "--top-k", "3", "--no-wait"]) == 0
    assert asked(fake).suspects == 3
    for bad in (["--known", "3=1", "5"], ["--known", "x"], ["--flip", "0.1", "--known", "3"], ["--rankings", "guess"]):
        assert main(["mislabels", "m", "--train", "d", "--test", "t", *bad]) == 2
