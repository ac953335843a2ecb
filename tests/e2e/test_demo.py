"""`make demo`, run as a user runs it."""

import base64
import dataclasses
import html.parser
import itertools
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN, TOP_K = 3, 4
RANKED = re.compile(r"(\d+) +(\d+) +(\d) +(\d)[! ] +([+-]\d\.\d{3})")
VOID = {"meta", "img", "link", "br", "hr", "input"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The output and the page of one run."""
    page = tmp_path_factory.mktemp("demo") / "page.html"
    command = [sys.executable, EXAMPLES / "demo.py", "--output", page, "--digits", str(SHOWN), "--top-k", str(TOP_K)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "", "neither the exporter nor a model warning may interrupt the demonstration"
    return run.stdout, page


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def closed_form(digits, classifier, l2, misread):
    """Return (misread, n) scores of softmax regression in NumPy, each residual corrected for its block leverage."""
    X = np.c_[digits.x_train, np.ones(len(digits.x_train))].astype(np.float64)
    Q = np.c_[digits.x_test, np.ones(len(digits.x_test))].astype(np.float64)[misread]
    n, classes = len(X), np.eye(10)
    P = np.exp(classifier.log_probabilities(digits.x_train))
    sigma = P[:, :, None] * (classes - P[:, None, :])
    H = np.einsum("nab,ni,nj->aibj", sigma / n, X, X, optimize=True).reshape(650, 650) + l2 * np.eye(650)
    inverse = np.linalg.inv(H).reshape(10, 65, 10, 65)
    leverage = np.einsum("ni,aibj,nj->nab", X, inverse, X, optimize=True) / n
    residual = np.linalg.solve(classes - sigma @ leverage, (P - classes[digits.y_train])[:, :, None])[:, :, 0]
    tested = np.exp(classifier.log_probabilities(digits.x_test[misread])) - classes[digits.y_test[misread]]
    solved = np.einsum("aibj,tb,tj->tai", inverse, tested, Q, optimize=True)
    return np.einsum("tai,na,ni->tn", solved, residual, X, optimize=True) / n


def printed_cases(text):
    """Return {test row: (helpful, harmful)}, lists of (rank, row, label, prediction, score) as printed."""
    cases = {}
    for block in re.split(r"^Test row ", text, flags=re.MULTILINE)[1:]:
        lines = [RANKED.findall(line) for line in block.splitlines()]
        pairs = [pair for pair in lines if pair]
        assert all(len(pair) == 2 for pair in pairs)
        cases[int(block.partition(":")[0])] = tuple(zip(*pairs, strict=True))
    return cases


def test_printed_rows_and_scores_are_those_of_the_closed_form(demo, examples):
    import demo_classifier

    digits = demo_classifier.load()
    classifier = demo_classifier.fit(digits)
    misread = np.flatnonzero(classifier.read(digits.x_test) != digits.y_test)
    reads = classifier.read(digits.x_train)
    scores = closed_form(digits, classifier, demo_classifier.L2, misread)
    cases = printed_cases(demo[0])
    assert list(cases) == [int(misread[t]) for t in np.argsort(scores.min(1))[:SHOWN]]
    for row, sides in cases.items():
        expected = scores[np.flatnonzero(misread == row)[0]]
        for side, order in zip(sides, (np.argsort(-expected), np.argsort(expected)), strict=True):
            assert [int(rank) for rank, *_ in side] == list(range(1, TOP_K + 1))
            assert [int(each) for _, each, *_ in side] == order[:TOP_K].tolist()
            assert [int(label) for _, _, label, _, _ in side] == digits.y_train[order[:TOP_K]].tolist()
            assert [int(read) for _, _, _, read, _ in side] == reads[order[:TOP_K]].tolist()
            np.testing.assert_allclose([float(each[4]) for each in side], expected[order[:TOP_K]], atol=6e-4)


def test_scores_foretell_retraining(demo):
    [(largest, error)] = re.findall(
        r"by\s+up\s+to\s+(\S+);\s+no\s+score\s+was\s+off\s+by\s+more\s+than\s+(\S+)\.", demo[0]
    )
    print(f"largest measured change {largest}, largest error of a score {error}")
    assert float(error) < 0.1 * float(largest)


def test_output_ends_with_the_page_and_names_stages_labels_and_diagnostics(demo):
    text, page = demo
    assert text.splitlines()[-1] == str(page.resolve())
    assert len(re.findall(r"^ +\d+\.\d s  \w", text, flags=re.MULTILINE)) == 9
    assert re.search(r"worth a second look, most harmful first:\n +row +\d+: labelled \d, read as \d", text)
    [line] = re.findall(r"^  Diagnostics: .*$", text, flags=re.MULTILINE)
    assert re.search(r"damping 0 \(convex\).*residual \d.*stationarity \d", line)
    assert float(re.search(r"stationarity (\S+);", line)[1]) < 1e-4


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and gathers what a page refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text = [], [], set(), ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids |= {value for name, value in attributes if name == "id"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for each, attributes in self.tags if each == tag]


def test_page_is_sound_and_refers_to_nothing_outside(demo):
    source = demo[1].read_text(encoding="utf-8")
    page = Page(source)
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"https?:|url\(|@import|srcset|//", re.sub(r'src="data:[^"]*"', "", source))
    references = [
        value for _, each in page.tags for name, value in each.items() if name in ("src", "href", "action", "data")
    ]
    assert references
    assert all(reference.startswith("data:image/png;base64,") for reference in references)
    assert all(each["aria-labelledby"] in page.ids for _, each in page.tags if "aria-labelledby" in each)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_page_shows_each_digit_beside_its_training_digits(demo, examples):
    import demo_classifier

    digits = demo_classifier.load()
    text, page = demo
    images = {each["alt"]: each["src"] for each in Page(page.read_text(encoding="utf-8")).all("img")}
    for test_row, sides in printed_cases(text).items():
        [alt] = [alt for alt in images if alt.startswith(f"Test digit, row {test_row}: ")]
        np.testing.assert_array_equal(pixels(images[alt]), np.rint(digits.x_test[test_row] * 255))
        for _, row, label, read, score in (each for side in sides for each in side):
            source = images[f"Training digit, row {row}: labelled {label}, read as {read}"]
            np.testing.assert_array_equal(pixels(source), np.rint(digits.x_train[int(row)] * 255))
            assert score.replace("-", "\N{MINUS SIGN}") in page.read_text(encoding="utf-8")


def pixels(uri):
    """Return the alpha channel of an 8×8 grey PNG whose lines are not filtered."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    length = int.from_bytes(data[33:37], "big")
    assert data[37:41] == b"IDAT"
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(8, 17)
    return lines[:, 2::2].ravel()


def test_listing_on_the_page_is_what_ran(demo):
    page = Page(demo[1].read_text(encoding="utf-8"))
    listing = page.text[page.text.index("import undue\n") : page.text.index("Diagnostics")]
    compile(listing, "listing", "exec")
    source = (EXAMPLES / "demo.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in listing.splitlines() if line.strip()]
    assert len(lines) <= 10
    assert all(line in source for line in lines)


def test_what_a_service_answers_is_escaped(examples):
    import demo_cases
    import demo_classifier
    import demo_page
    import undue

    hostile = "</dd><script>alert(1)</script>"
    example = undue.ScoredExample(row=0, id=hostile, score=-0.1, target=1, prediction=2, loss=1.0)
    explanation = undue.Explanation(row=0, id=hostile, prediction=3, target=4, loss=1.0, helpful=(), harmful=(example,))
    removal = demo_cases.Removal((0,), -0.1, -0.1, 4)
    texts = {f.name: hostile for f in dataclasses.fields(undue.Diagnostics) if f.type in (str, "str")}
    diagnostics = undue.Diagnostics(
        **texts, damping=0.0, leverage_correction=True, residual=0.0, stationarity=undue.Stationarity(0.0, 0.0, 0.0),
        seed=0, digests={hostile: hostile}, seconds=0.0, warnings=(hostile,),
    )  # fmt: skip
    findings = demo_cases.Findings((demo_cases.Case(explanation, removal, removal),), (), diagnostics)
    source = demo_page.render(findings, demo_classifier.load(), misread=1, code=hostile)
    assert not Page(source).all("script")
    assert source.count("&lt;script&gt;") >= len(texts) + 3


@pytest.mark.parametrize("options", [["--digits", "0"], ["--top-k", "1"], ["--output", "no/such/folder/page.html"]])
def test_wrong_options_are_refused_before_anything_runs(options, tmp_path):
    run = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py", *options], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2
    assert options[0] in run.stderr
    assert run.stdout == ""
