"""URIs of files that the service reads where they lie; most of them hostile."""

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.adapters import locating
from undue_service.adapters.locating import LocalLocator
from undue_service.domain.errors import Error, InvalidArgument, NotFound, Reason
from undue_service.domain.specs import FileSource, LocatedFile, SchemaSpec
from undue_service.wire.codec import RESOURCE_SPEC
from undue_service.wire.framing import MAX_TASK_BYTES


@pytest.fixture
def tree(tmp_path):
    """`data` is the root; everything else lies outside of it, and the service's own files inside."""
    for folder in ("data/sub", "data/own", "database", "outside", "data/images/cat", "data/images/dog/.thumbs"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("b.csv", "a.csv", ".hidden.csv", "a[1]*?.txt", "100%.txt", "ä.csv.bak", "sub/deep.csv", "own/state"):
        (tmp_path / "data" / name).write_text(name)
    for name in ("database/a.csv", "outside/secret.csv"):
        (tmp_path / name).write_text("secret")
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/.DS_Store", "dog/.thumbs/1.png", "readme.txt"):
        (tmp_path / "data/images" / name).write_text(name)
    data = tmp_path / "data"
    (data / "out.csv").symlink_to(tmp_path / "outside/secret.csv")
    (data / "out-missing.csv").symlink_to(tmp_path / "outside/nothing.csv")
    (data / "out-folder").symlink_to(tmp_path / "outside")
    (data / "dangling.csv").symlink_to(data / "nothing.csv")
    (data / "circle.csv").symlink_to(data / "circle.csv")
    (data / "inside.csv").symlink_to(data / "sub/deep.csv")
    (data / "prefix.csv").symlink_to("../database/a.csv")
    os.mkfifo(data / "pipe.csv")
    return tmp_path


@pytest.fixture
def locate(tree):
    locator = LocalLocator([tree / "data"], private=tree / "data/own")
    return lambda path, file_format="csv": locator.locate(f"file://{tree}/{path}", file_format)


def names(files):
    return [file.name for file in files]


def test_one_file_is_what_it_is(tree, locate):
    [file] = locate("data/a.csv")
    path = tree / "data/a.csv"
    assert (file.name, file.path) == ("a.csv", str(path.resolve()))
    found = path.stat()
    assert (file.size, file.mtime_ns) == (5, found.st_mtime_ns)
    assert (file.ctime_ns, file.inode) == (found.st_ctime_ns, found.st_ino)
    [linked] = locate("data/inside.csv")
    assert (linked.name, linked.path) == ("inside.csv", str((tree / "data/sub/deep.csv").resolve()))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("data/?.csv", ["a.csv", "b.csv"]),
        ("data/[ab].csv", None),
        ("data/?hidden.csv", None),
        ("data/.h*.csv", [".hidden.csv"]),
        ("data/*.bak", ["ä.csv.bak"]),
        ("data/%C3%A4*", ["ä.csv.bak"]),
        ("data/a%5B1%5D%2A%3F.txt", ["a[1]*?.txt"]),
        ("data/a[1]%2A*.txt", ["a[1]*?.txt"]),
        ("data/100%25.txt", ["100%.txt"]),
        ("data/100%2525.txt", None),
        ("data/%61.csv", ["a.csv"]),
        ("data//a.csv", ["a.csv"]),
        ("data/a.csv/", ["a.csv"]),
        ("data/sub/*", ["deep.csv"]),
        ("data/*.parquet", None),
        ("data/nothing.csv", None),
        ("data/nowhere/*.csv", None),
        ("data/a.csv/b.csv", None),
        ("data/dangling.csv", None),
        (f"data/{'x' * 300}.csv", None),
    ],
)
def test_what_a_uri_means(locate, path, found):
    if found is not None:
        assert names(locate(path)) == found
        return
    with pytest.raises(NotFound) as caught:
        locate(path)
    assert caught.value.reason is Reason.URI_NOT_FOUND


def test_the_host_may_be_empty_or_localhost_and_the_scheme_in_capitals(tree):
    locator = LocalLocator([tree / "data"])
    for start in ("file://", "FILE://", "file://localhost", "file://LOCALHOST"):
        assert names(locator.locate(f"{start}{tree}/data/a.csv", "csv")) == ["a.csv"]


HOSTILE = [
    "file:///etc/passwd",
    "file:///etc/no-such-file",
    "file:///proc/self/environ",
    "file:///",
    "file://",
    "file:{tree}/data/a.csv",
    "file://data/a.csv",
    "file://evil.example{tree}/data/a.csv",
    "file://127.0.0.1{tree}/data/a.csv",
    "file://user@localhost{tree}/data/a.csv",
    "{tree}/data/a.csv",
    "data/a.csv",
    "a.csv",
    "",
    "s3://bucket/a.csv",
    "https://example.org/a.csv",
    "http://localhost/a.csv",
    "ftp://example.org/a.csv",
    " file://{tree}/data/a.csv",
    "file://{tree}/data/../outside/secret.csv",
    "file://{tree}/data/../data/a.csv",
    "file://{tree}/data/./a.csv",
    "file://{tree}/data/%2e%2e/outside/secret.csv",
    "file://{tree}/data/%2E./outside/secret.csv",
    "file://{tree}/data/sub/..",
    "file://{tree}/data/..%2foutside%2Fsecret.csv",
    "file://{tree}/data/sub%2fdeep.csv",
    "file://{tree}/data/*%2f*",
    "file://{tree}/data/a.csv%00",
    "file://{tree}/data/a.csv\0.txt",
    "file://{tree}/data/a%0a.csv",
    "file://{tree}/data/%ff.csv",
    "file://{tree}/data/a%.csv",
    "file://{tree}/data/a%2*",
    "file://{tree}/d*ta/a.csv",
    "file://{tree}/data/**/a.csv",
    "file://{tree}/database/a.csv",
    "file://{tree}/data.csv",
    "file://{tree}/outside/secret.csv",
    "file://{tree}/outside/*.csv",
    "file://{tree}/*",
    "file://{tree}/data/out.csv",
    "file://{tree}/data/out-missing.csv",
    "file://{tree}/data/out-folder/secret.csv",
    "file://{tree}/data/out-folder/*.csv",
    "file://{tree}/data/prefix.csv",
    "file://{tree}/data/out*",
    "file://{tree}/data/o*t.csv",
    "file://{tree}/data/own/state",
    "file://{tree}/data/own/*",
    "file://{tree}/data/pipe.csv",
    "file://{tree}/data/circle.csv",
    "file://{tree}/data/p*.csv",
    "file://{tree}/data/sub",
    "file://{tree}/data",
    "file://{tree}/data/s*",
]


@pytest.mark.timeout(20)  # opening a pipe would wait for ever
@pytest.mark.parametrize("uri", HOSTILE)
def test_hostile_uris_are_refused(tree, uri):
    locator = LocalLocator([tree / "data"], private=tree / "data/own")
    with pytest.raises(InvalidArgument) as caught:
        locator.locate(uri.format(tree=tree), "csv")
    assert caught.value.reason is Reason.URI_REFUSED
    assert caught.value.violations[0].field == "dataset.file.uri"


def test_what_lies_outside_is_refused_in_the_same_words_whether_it_is_there_or_not(tree):
    locator = LocalLocator([tree / "data"])
    (tree / "data/link").symlink_to(tree / "outside")
    (tree / "data/no-link").symlink_to(tree / "no-such-folder")
    os.mkfifo(tree / "outside/pipe")
    (tree / "outside/locked").mkdir(mode=0)

    def said(path, file_format):
        uri = f"file://{tree}/{path}"
        with pytest.raises(InvalidArgument) as caught:
            locator.locate(uri, file_format)
        return caught.value.reason, caught.value.message.replace(uri, "URI")

    words = {
        said(path, file_format)
        for file_format in ("csv", "parquet", "image_folder")
        for path in (
            "outside/secret.csv",
            "outside/nothing.csv",
            "outside",
            "outside/pipe",
            "outside/locked/x",
            "outside/secret.csv/x",
            "no-such-folder/x",
            "data/out.csv",
            "data/out-missing.csv",
            "data/link/secret.csv",
            "data/link/nothing.csv",
            "data/no-link/secret.csv",
        )
    }
    assert len(words) == 1


def test_a_folder_of_images_that_links_outside_is_refused_in_the_same_words(tree, locate):
    words = set()
    for target in ("outside", "outside/secret.csv", "outside/nothing", "database"):
        (tree / "data/images/cat/link").symlink_to(tree / target)
        with pytest.raises(InvalidArgument) as caught:
            locate("data/images", "image_folder")
        words.add(caught.value.message)
        (tree / "data/images/cat/link").unlink()
    assert len(words) == 1


def test_without_roots_everything_is_refused(tree):
    for path in (tree / "data/a.csv", "/no-such-file"):
        with pytest.raises(InvalidArgument, match="UNDUE_DATASET_ROOTS; upload") as caught:
            LocalLocator([]).locate(f"file://{path}", "csv")
        assert caught.value.reason is Reason.URI_REFUSED


def test_a_root_may_be_a_link_and_end_with_a_slash(tree):
    (tree / "alias").symlink_to(tree / "data")
    for root in (tree / "alias", Path(f"{tree}/data/")):
        for path in ("alias/a.csv", "data/a.csv"):
            assert names(LocalLocator([tree / "outside", root]).locate(f"file://{tree}/{path}", "csv")) == ["a.csv"]


def test_the_root_of_all_is_a_root_too(tree):
    assert names(LocalLocator([Path("/")]).locate(f"file://{tree}/data/a.csv", "csv")) == ["a.csv"]


def test_images_are_called_by_their_paths_and_what_is_hidden_is_passed_over(locate, tree):
    files = locate("data/images", "image_folder")
    assert names(files) == ["cat/1.png", "cat/2.png", "dog/1.png", "readme.txt"]
    assert files[0].path == str((tree / "data/images/cat/1.png").resolve())
    assert names(locate("data/images/", "image_folder")) == names(files)
    (tree / "data/images/cow").symlink_to(tree / "data/images/dog")
    assert "cow/1.png" in names(locate("data/images", "image_folder"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda images: (images / "cat/up").symlink_to(images), "leads back"),
        (lambda images: os.mkfifo(images / "cat/pipe"), "no regular file"),
        (lambda images: (images / "cat/circle").symlink_to("circle"), "no regular file"),
        (lambda images: Path(os.fsdecode(os.fsencode(images) + b"/\xff.png")).touch(), "not UTF-8"),
    ],
    ids=["loop", "pipe", "circle", "name"],
)
def test_a_folder_of_images_that_holds_something_else_is_refused(tree, locate, spoil, words):
    spoil(tree / "data/images")
    with pytest.raises(InvalidArgument, match=words) as caught:
        locate("data/images", "image_folder")
    assert caught.value.reason is Reason.URI_REFUSED


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("data/a.csv", InvalidArgument),
        ("data/im*", InvalidArgument),
        ("data", InvalidArgument),
        ("data/nothing", NotFound),
    ],
)
def test_a_folder_of_images_is_a_folder(locate, path, error):
    with pytest.raises(error):
        locate(path, "image_folder")


def test_an_empty_folder_of_images_names_no_file(tree, locate):
    (tree / "data/empty/.git").mkdir(parents=True)
    with pytest.raises(NotFound):
        locate("data/empty", "image_folder")


def test_a_format_that_is_one_file_has_one(locate):
    with pytest.raises(InvalidArgument, match="npz is one file") as caught:
        locate("data/?.csv", "npz")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert names(locate("data/a.c*", "npz")) == ["a.csv"]
    assert names(locate("data/?.csv", "parquet")) == ["a.csv", "b.csv"]


def test_the_files_of_idx_are_called_as_their_columns(tree, locate):
    (tree / "data/idx").mkdir()
    for name in ("t-labels-idx1-ubyte.gz", "t-images-idx3-ubyte.gz"):
        (tree / "data/idx" / name).touch()
    assert names(locate("data/idx/t-*", "idx")) == ["t-images", "t-labels"]
    (tree / "data/idx/t-images.idx3-ubyte").touch()
    with pytest.raises(InvalidArgument, match="several files of one column: t-images"):
        locate("data/idx/*", "idx")


def test_there_is_an_end_to_how_many(tree, locate, monkeypatch):
    monkeypatch.setattr(locating, "MAX_FILES", 1)
    with pytest.raises(InvalidArgument, match="more than 1 files"):
        locate("data/?.csv")
    monkeypatch.setattr(locating, "MAX_ENTRIES", 5)
    with pytest.raises(InvalidArgument, match="more than 5 files"):
        locate("data/images", "image_folder")
    monkeypatch.setattr(locating, "MAX_ENTRIES", 6)
    assert len(locate("data/images", "image_folder")) == 4
    monkeypatch.setattr(locating, "MAX_TEXT_BYTES", 30)
    with pytest.raises(InvalidArgument, match="more than 30 bytes"):
        locate("data/images", "image_folder")


def test_two_data_sets_of_as_many_files_as_may_be_fit_a_task():
    most = LocatedFile("", "", 2**63, 2**63, 2**63, 2**64 - 1)
    one, two = (len(RESOURCE_SPEC.dump(FileSource("image_folder", (most,) * n, SchemaSpec({})))) for n in (1, 2))
    assert 2 * ((two - one) * locating.MAX_ENTRIES + locating.MAX_TEXT_BYTES) < 0.95 * MAX_TASK_BYTES


@pytest.mark.parametrize(("call", "path"), [("scandir", "data/sub/*.csv"), ("open", "data/sub/deep.csv")])
def test_what_the_service_may_not_read_is_refused(locate, monkeypatch, call, path):
    def locked(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "/the/real/path")

    monkeypatch.setattr(locating.os, call, locked)
    with pytest.raises(InvalidArgument, match="cannot be read by the service: Permission denied") as caught:
        locate(path)
    assert "/the/real/path" not in caught.value.message


@pytest.mark.parametrize(
    ("path", "file_format", "swapped"),
    [
        ("data/sub/secret.csv", "csv", "data/sub"),
        ("data/sub/*.csv", "csv", "data/sub"),
        ("data/images", "image_folder", "data/images"),
        ("data/images", "image_folder", "data/images/cat"),
    ],
)
def test_a_folder_that_becomes_a_link_while_it_is_looked_at_is_not_entered(
    tree, locate, monkeypatch, path, file_format, swapped
):
    place, away = tree / swapped, tree / "away"
    (tree / "data/sub/secret.csv").touch()
    real = os.path.realpath

    def raced(path, **options):
        """Answer as long as the folder is one, and swap it before the answer can be used."""
        place.unlink()
        away.rename(place)
        answer = real(path, **options)
        place.rename(away)
        place.symlink_to(tree / "outside")
        return answer

    place.rename(away)
    place.symlink_to(tree / "outside")
    monkeypatch.setattr(locating.os.path, "realpath", raced)
    with pytest.raises(Error) as caught:
        locate(path, file_format)
    assert caught.value.reason in (Reason.URI_NOT_FOUND, Reason.URI_REFUSED)
    assert "outside" not in caught.value.message


def test_nothing_stays_open(locate):
    before = len(os.listdir("/proc/self/fd"))
    locate("data/?.csv")
    locate("data/images", "image_folder")
    for path in ("data/circle.csv", "data/nothing.csv", "data/sub", "data/pipe.csv"):
        with pytest.raises(Error):
            locate(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_need_only_let_itself_be_passed_through(tree, locate):
    (tree / "data/sub").chmod(0o311)
    assert names(locate("data/sub/deep.csv")) == ["deep.csv"]
    (tree / "data/sub").chmod(0o755)


def test_the_file_that_is_not_there_is_named(tree, locate):
    (tree / "data/images/cat/3.png").symlink_to("nothing.png")
    with pytest.raises(NotFound, match=r"means 'cat/3\.png', which is not there"):
        locate("data/images", "image_folder")


def test_a_pattern_cannot_keep_the_service_busy(tree, locate):
    (tree / "data/sub" / ("a" * 250)).touch()
    start = time.monotonic()
    with pytest.raises(NotFound):
        locate("data/sub/" + "*a" * 100 + "b")
    assert time.monotonic() - start < 5


PIECES = st.sampled_from(["..", "%2e%2e", "%252e%252e", ".", "/", "%2f", "data", "outside", "out-folder", "own", "sub"])
MORE = st.sampled_from(["secret.csv", "*", "?", "%00", "%", "file:", "//", "a.csv", "state", "\\", "~", "prefix.csv"])


@given(st.lists(PIECES | MORE | st.text(max_size=3), max_size=8))
def test_whatever_is_asked_nothing_outside_is_found(shared, pieces):
    locator = LocalLocator([shared / "data"], private=shared / "data/own")
    for uri in ("".join(pieces), f"file://{shared}/data/" + "/".join(pieces)):
        for file_format in ("csv", "image_folder"):
            try:
                files = locator.locate(uri, file_format)
            except Error as error:
                assert error.reason in (Reason.URI_REFUSED, Reason.URI_NOT_FOUND)
                continue
            for file in files:
                assert file.path.startswith(f"{shared}/data/")
                assert not file.path.startswith(f"{shared}/data/own/")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    root = tmp_path_factory.mktemp("shared").resolve()
    for name in ("data/sub/a.csv", "data/a.csv", "data/own/state", "outside/secret.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "data/sub/out-folder").symlink_to(root / "outside")
    (root / "data/prefix.csv").symlink_to(root / "outside/secret.csv")
    return root
