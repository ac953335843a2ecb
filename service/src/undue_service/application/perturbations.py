"""Read what a finished perturb job found: what each attack did, and the rows that it poisoned."""

from collections.abc import Iterator, Sequence

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.perturb_jobs import Perturbation, PoisonedRow

from .ports import PerturbationReader
from .results import Results


class Perturbations:
    """Use cases of JobService's perturb jobs."""

    def __init__(self, results: Results, reader: PerturbationReader) -> None:
        self._results = results
        self._reader = reader

    def page(self, tenant: str, name: str, start: int, count: int) -> tuple[tuple[Perturbation, ...], int | None]:
        """Return at most `count` attacks from position `start` on, and where the next ones start.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.perturbations(self._results.file(tenant, name, "perturbations"), start, count)

    def poisoned(self, tenant: str, name: str, attacks: Sequence[int]) -> Iterator[PoisonedRow]:
        """Yield the rows that some attacks poisoned, attack by attack; of no attacks, those of all.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            InvalidArgument: ROW_OUT_OF_RANGE; there is no such attack.
            NotFound: RESOURCE_NOT_FOUND.
        """
        path = self._results.file(tenant, name, "poisoned")
        there = self._reader.attacks(path)
        wrong = next((one for one in attacks if not 0 <= one < there), None)
        if wrong is not None:
            text = f"there is no attack {wrong}; the job has {there:,}, numbered from 0"
            raise InvalidArgument.at("attacks", text, Reason.ROW_OUT_OF_RANGE)
        return self._reader.poisoned(path, attacks or range(there))
