"""Domain values as JSON: in the database and in the frames between the API process and a runner. Never pickle."""

from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from undue_service.domain.comparison_findings import CompareFinding
from undue_service.domain.group_findings import GroupFinding
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.jobs import Job
from undue_service.domain.reports import TaskResult
from undue_service.domain.specs import ArraysSource, FileSource, LocatedFile, ModelSpec
from undue_service.domain.tasks import Task

T = TypeVar("T")


class Codec(Generic[T]):
    """Writes and reads one type of the domain."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def dump(self, value: T) -> bytes:
        """Return the value as JSON.

        Raises:
            ValueError: it holds NaN or infinity, which JSON lacks.
        """
        data = to_json(self._adapter.dump_python(value), inf_nan_mode="constants")
        from_json(data, allow_inf_nan=False)
        return data

    def load(self, data: bytes | str) -> T:
        """Return the value again.

        Raises:
            ValueError: the JSON is not of this type, or has NaN or infinity in it.
        """
        try:
            from_json(data, allow_inf_nan=False)
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise ValueError(str(error)) from error


JOB: Codec[Job] = Codec(Job)
RESOURCE_SPEC: Codec[ModelSpec | ArraysSource | FileSource] = Codec(ModelSpec | ArraysSource | FileSource)
LOCATED_FILES: Codec[tuple[LocatedFile, ...]] = Codec(tuple[LocatedFile, ...])
INDEX_SPEC: Codec[IndexSpec] = Codec(IndexSpec)
GROUP_FINDING: Codec[GroupFinding] = Codec(GroupFinding)
COMPARE_FINDING: Codec[CompareFinding] = Codec(CompareFinding)
TASK: Codec[Task] = Codec(Task)
TASK_RESULT: Codec[TaskResult] = Codec(TaskResult)
