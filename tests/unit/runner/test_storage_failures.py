"""What a runner says when its files fail it."""

import errno

import numpy as np
import pytest

from undue_service.domain.validations import DatasetValidation
from undue_service.runner.main import _run
from undue_service.wire import frames_pb2 as frames
from undue_service.wire import results


class FullWorkshop:
    def __init__(self, number):
        self._number = number

    def run(self, *task, **more):
        raise OSError(self._number, "as the system says it")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "STORAGE_FULL"),
        (errno.EDQUOT, "STORAGE_FULL"),
        (errno.EROFS, "STORAGE_UNAVAILABLE"),
        (errno.EIO, "STORAGE_UNAVAILABLE"),
        (errno.ENOENT, "INTERNAL"),
    ],
)
def test_the_file_systems_errors_have_reasons(number, reason, monkeypatch):
    monkeypatch.setattr("undue_service.runner.main.TASK.load", lambda body: DatasetValidation("datasets/d"))
    answer = _run(FullWorkshop(number), None, frames.Task(id="j"))
    assert (answer.failure.id, answer.failure.reason) == ("j", reason)


def test_a_result_file_that_cannot_be_written_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        results.write(tmp_path / "no folder" / "file", {"a": np.zeros(3)})
