"""Sources of the examples: what is missing says how it is fetched, what is another file is refused."""

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from examples.sources import SourceMissing, fashion_mnist, heritage_health, mnist, packages, spam_assassin
from examples.sources.packages import Package, kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def copying(source: Path, name: str, digest: str) -> Package:
    copy = f"import shutil; shutil.copy({str(source)!r}, {name!r})"
    return Package("numbers", name, digest, (sys.executable, "-c", copy))


def tarball(path: Path, content: bytes) -> str:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("package/a.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_archive_is_fetched_once(cache: Path, tmp_path: Path) -> None:
    digest = tarball(tmp_path / "there.tgz", b"one")
    package = copying(tmp_path / "there.tgz", "here.tgz", digest)
    assert package.member("package/a.txt") == b"one"
    (tmp_path / "there.tgz").unlink()
    assert package.member("package/a.txt") == b"one"
    assert [path.name for path in cache.iterdir()] == ["here.tgz"]


def test_another_file_is_refused(cache: Path, tmp_path: Path) -> None:
    tarball(tmp_path / "there.tgz", b"two")
    with pytest.raises(SourceMissing, match="another file than the numbers"):
        copying(tmp_path / "there.tgz", "here.tgz", "0" * 64).fetched()


@pytest.mark.parametrize("command", [("no-such-client", "download"), (sys.executable, "-c", "exit('gone')")])
def test_what_is_missing_names_the_command(cache: Path, command: tuple[str, ...]) -> None:
    with pytest.raises(SourceMissing) as error:
        Package("numbers", "here.tgz", "0" * 64, command).fetched()
    assert f"needs numbers: `{' '.join(command)}` in {cache} says" in str(error.value)
    assert not list(cache.iterdir())


def test_arrays_are_computed_once_for_the_same_settings(cache: Path) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.arange(3)}

    for seed, computed in ((0, 1), (0, 1), (1, 2)):
        np.testing.assert_array_equal(kept("numbers", {"seed": seed}, compute)["x"], [0, 1, 2])
        assert len(calls) == computed


@pytest.mark.slow
def test_what_the_packages_hold() -> None:
    try:
        clothes, digits, mails, health = fashion_mnist("test"), mnist(), spam_assassin(), heritage_health()
    except SourceMissing as missing:
        pytest.skip(str(missing))
    assert clothes.pixels.shape == (10_000, 28, 28)
    assert np.bincount(clothes.labels).tolist() == [1000] * 10
    assert digits.channels().shape == (10_000, 1, 28, 28)
    assert np.bincount(digits.labels).tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert len(np.unique(digits.flat(), axis=0)) == 10_000
    assert len(mails) == len(set(zip(mails.subjects, mails.texts, strict=True))) == 5919
    assert 0.3 < mails.spam.mean() < 0.32
    assert len(health) == 75_173
    assert not {"MemberID_t", "YEAR_t", "trainset"} & set(health.columns)
    ages = sum(health.column(name) for name in ("age_05", "age_15", "age_25", "age_35", "age_45"))
    assert 0 < ages.mean() < 1
    assert set(health.years.tolist()) == {1, 2}
