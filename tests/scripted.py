"""Runners that do as a script says: they speak the frames and hold no model."""

import sys

from undue_service.domain.reports import DatasetReport, TaskResult
from undue_service.domain.specs import ArraysSource, TensorRef
from undue_service.domain.tasks import DatasetTask
from undue_service.wire.codec import TASK_RESULT

PREAMBLE = """
import os, socket, sys, time
from undue_service.wire import frames_pb2 as f
from undue_service.wire.framing import RunnerChannel
sock = socket.socket(fileno=int(sys.argv[1]))
channel = RunnerChannel(sock)
def say(**frame): channel.send(f.FromRunner(**frame))
"""
HELLO = "say(hello=f.Hello(libraries={'torch': '9'}))\ntask = channel.receive().task\n"
REPORT = DatasetReport(1, (), None, has_ids=False, has_weights=False, digest="d")
DONE = f"say(done=f.Done(id=task.id, result={TASK_RESULT.dump(TaskResult(REPORT))!r}))\n"


def launcher(script):
    """The command of a runner that does as the script says once it has its socket."""
    return [sys.executable, "-c", PREAMBLE + script]


def a_task(digest):
    return DatasetTask(ArraysSource({"x": TensorRef("int8", (4,), digest)}))
