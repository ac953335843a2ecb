"""What it means to an index, and to whoever deletes it, that a model or a data set goes. The same for every store."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from undue_service.domain.jobs import JobState


@dataclass(frozen=True, slots=True)
class IndexUse:
    """A job of an index that names a model or a data set."""

    index_id: str
    job: str
    """`jobs/{id}`."""
    state: JobState
    target: str


def named_users(users: Iterable[str], of_indexes: Iterable[IndexUse]) -> tuple[str, ...]:
    """Return who is named as the user of a resource, in order: an index in the place of its jobs, which go with it.

    A job of an index that ended without success needs nothing any more.
    """
    jobs = {use.job for use in of_indexes}
    needed = {f"indexes/{use.index_id}" for use in of_indexes if use.state in _NEEDING}
    return tuple(sorted({user for user in users if user not in jobs} | needed))


def lost_by(users: Mapping[str, Iterable[str]], of_indexes: Iterable[IndexUse]) -> dict[str, list[str]]:
    """Return which indexes, by their ids, lose which of the resources that go: those that hold rows or scores of them.

    One that would only have been extended does not.
    """
    lost = {user.removeprefix("indexes/"): list(names) for user, names in users.items() if user.startswith("indexes/")}
    for use in of_indexes:
        if use.state is JobState.SUCCEEDED:
            lost.setdefault(use.index_id, []).append(use.target)
    return lost


_NEEDING = (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)
