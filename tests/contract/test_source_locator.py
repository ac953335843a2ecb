"""One suite for every SourceLocator."""

import pytest

from undue_service.adapters.locating import LocalLocator
from undue_service.adapters.memory import MemoryLocator
from undue_service.domain.errors import NotFound, Reason
from undue_service.wire.located import located_file


@pytest.fixture(params=["local", "memory"])
def locator(request, tmp_path):
    """A locator that knows b.csv and a.csv in a folder."""
    folder = tmp_path.resolve()
    for name in ("b.csv", "a.csv"):
        (folder / name).write_text(name)
    if request.param == "local":
        return LocalLocator([folder])
    files = tuple(located_file(name, str(folder / name), (folder / name).stat()) for name in ("a.csv", "b.csv"))
    return MemoryLocator({f"file://{folder}/*.csv": files, f"file://{folder}/b.csv": files[1:]})


def test_files_come_in_the_order_of_their_names(locator, tmp_path):
    folder = tmp_path.resolve()
    found = locator.locate(f"file://{folder}/*.csv", "csv")
    assert [(file.name, file.path, file.size) for file in found] == [
        ("a.csv", str(folder / "a.csv"), 5),
        ("b.csv", str(folder / "b.csv"), 5),
    ]
    status = (folder / "a.csv").stat()
    assert (found[0].mtime_ns, found[0].ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
    assert found[0].inode == status.st_ino
    assert locator.locate(f"file://{folder}/b.csv", "csv") == found[1:]


def test_what_is_not_there_is_not_found(locator, tmp_path):
    with pytest.raises(NotFound) as caught:
        locator.locate(f"file://{tmp_path.resolve()}/c.csv", "csv")
    assert caught.value.reason is Reason.URI_NOT_FOUND
