"""Make this process safe to hold a stranger's model, then become the runner. No thread exists yet.

python -m undue_service.runner.launcher FD DEVICE BLOCK_BYTES SERVE_BYTES
"""

import ctypes
import os
import resource
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Set limits and exec."""
    descriptor, rest = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")
    if _is_orphan(descriptor):
        return  # the service went before its death could reach us as a signal
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold somebody's data
    os.umask(0o077)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65536))
    os.set_inheritable(descriptor, True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "undue_service.runner.main", str(descriptor), *rest])


def _is_orphan(descriptor: int) -> bool:
    """Return whether the service's end of the socket is closed."""
    channel = socket.socket(fileno=descriptor)
    try:
        return channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        channel.detach()


if __name__ == "__main__":
    main()
