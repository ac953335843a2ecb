from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from undue_service.domain.errors import FailedPrecondition, NotFound, Reason
from undue_service.domain.jobs import Failure, Job, JobState, Progress
from undue_service.domain.reports import DatasetReport
from undue_service.domain.validations import DatasetValidation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT = DatasetReport(1, (), None, has_ids=False, has_weights=False, digest="")
ERROR = NotFound(Reason.RESOURCE_NOT_FOUND, "gone", metadata={"a": "b"})

ACTIONS = {
    "start": lambda job, now: job.start(now),
    "advance": lambda job, now: job.advance(Progress("s", 1, 2)),
    "requeue": lambda job, now: job.requeue(),
    "put_back": lambda job, now: job.put_back(),
    "succeed": lambda job, now: job.succeed(now, REPORT, {"r": "d"}),
    "fail": lambda job, now: job.fail(now, ERROR),
    "cancel": lambda job, now: job.cancel(now),
}
ALLOWED = {
    JobState.QUEUED: {"start", "cancel"},
    JobState.RUNNING: set(ACTIONS),
    JobState.SUCCEEDED: {"cancel"},
    JobState.FAILED: {"cancel"},
    JobState.CANCELLED: {"cancel"},
}


class JobMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.job = Job("t", "j", DatasetValidation("datasets/d/versions/1"), NOW)
        self.now = NOW

    @rule(name=st.sampled_from(sorted(ACTIONS)))
    def act(self, name):
        before, self.now = self.job, self.now + timedelta(seconds=1)
        if name in ALLOWED[before.state]:
            self.job = ACTIONS[name](before, self.now)
        else:
            with pytest.raises(FailedPrecondition):
                ACTIONS[name](before, self.now)
        if before.state.ended:
            assert self.job is before, "an ended job changes no more"

    @precondition(lambda self: self.job.state is JobState.SUCCEEDED)
    @invariant()
    def success_has_a_report_and_no_failure(self):
        assert self.job.report == REPORT
        assert self.job.failure is None

    @invariant()
    def what_ended_has_an_end_and_nothing_else_has(self):
        assert (self.job.end_time is not None) == self.job.state.ended
        assert (self.job.failure is not None) == (self.job.state is JobState.FAILED)
        assert (self.job.start_time is None) == (self.job.attempt == 0)
        ended = self.job.attempt - (self.job.state is JobState.RUNNING)
        assert self.job.lost_runners + self.job.interruptions <= ended


TestJobMachine = JobMachine.TestCase


def test_a_failure_gives_its_error_back():
    error = Failure.of(ERROR).error()
    assert (type(error), error.reason, error.message, error.metadata) == (NotFound, ERROR.reason, "gone", {"a": "b"})


def test_a_failure_of_unknown_words_is_internal():
    assert Failure("STRANGE", "WORDS", "text").error().reason is Reason.INTERNAL
