"""A service as a platform would run it, and what its errors hold."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from google.rpc import error_details_pb2, status_pb2

SERVE = [sys.executable, "-m", "undue_service.main", "serve", "--address", "127.0.0.1:0"]


@contextmanager
def serving(data_dir, **environment):
    """Give the address of a service on a TCP port; it ends with the context, in order."""
    read, write = os.pipe()
    command = [*SERVE, "--data-dir", str(data_dir), "--ready-fd", str(write)]
    environment = os.environ | {"UNDUE_METRICS_ADDRESS": ""} | environment
    process = subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL, env=environment)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            yield json.loads(pipe.readline())["address"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


def details(error):
    """Return (status, ErrorInfo) of a failed call."""
    [packed] = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return status, info
