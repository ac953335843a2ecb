"""The launcher, as a process."""

import os
import socket
import subprocess

from undue_service.adapters.pool.runner_process import LAUNCHER


def test_a_launcher_whose_service_is_gone_starts_no_runner():
    ours, theirs = socket.socketpair()
    ours.close()  # as it is when the service was killed before the launcher asked to be told of that
    with theirs:
        command = [*LAUNCHER, str(theirs.fileno()), "cpu", "1000000"]
        environment = os.environ | {"PYTHONVERBOSE": "1"}
        done = subprocess.run(
            command, pass_fds=(theirs.fileno(),), capture_output=True, text=True, timeout=60, env=environment
        )
    assert done.returncode == 0
    assert "undue_service.runner" in done.stderr
    assert "undue_service.wire" not in done.stderr, "it has become a runner"
