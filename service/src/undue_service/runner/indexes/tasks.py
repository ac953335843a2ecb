"""What a runner does with indexes."""

from undue_service.domain.reports import TaskResult
from undue_service.domain.tasks import (
    ExplainTask,
    IndexBuildTask,
    IndexCompactTask,
    IndexExtendTask,
    OpenIndexTask,
)
from undue_service.runner.opening import Models
from undue_service.runner.place import Place

from .building import build
from .changing import compact, extend
from .explaining import explain
from .resident import Residents

SERVE_BYTES = 2 << 30
"""Memory for the indexes that a runner holds, unless it is told otherwise."""


class IndexTasks:
    """Runs tasks about indexes, and holds those that are open."""

    def __init__(self, models: Models, block_bytes: int, serve_bytes: int) -> None:
        """Work with `block_bytes` of memory for a block of rows, beside `serve_bytes` for what is held."""
        self._models = models
        self._block_bytes = block_bytes
        self._residents = Residents(models, serve_bytes, block_bytes)

    def run(
        self,
        task: IndexBuildTask | IndexExtendTask | IndexCompactTask | OpenIndexTask | ExplainTask,
        place: Place,
    ) -> TaskResult:
        """Run one task.

        Raises:
            Error: whatever is wrong with the index, the model, the data or the request.
        """
        match task:
            case ExplainTask():
                return explain(task, place.attachment, self._residents)
            case OpenIndexTask(held=held):
                return TaskResult(self._residents.open(held, place))
            case IndexBuildTask():
                return build(task, self._models, place, self._block_bytes)
            case IndexExtendTask():
                return extend(task, self._models, place, self._block_bytes)
            case IndexCompactTask():
                return compact(task, place)

    def resident_bytes(self) -> int:
        """Return what the indexes take that are held, with their models."""
        return self._residents.nbytes
