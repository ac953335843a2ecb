"""What to say of an exception that nobody foresaw at its place."""

import errno
import traceback

from undue_service.domain.errors import Error, Internal, Reason, ResourceExhausted, Unavailable


def typed(error: Exception) -> Error:
    """Return the typed error of any exception; called while it is handled.

    The service's log gets the trace of what has no type, the user a reason.
    """
    if isinstance(error, Error):
        return error
    if isinstance(error, MemoryError):
        text = "the task needs more memory than this machine has: ask for fewer rows at once"
        return ResourceExhausted(Reason.OUT_OF_MEMORY, text)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = "the disk that results are written to is full: free space, then create the job again"
        return ResourceExhausted(Reason.STORAGE_FULL, text)
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EIO):
        text = f"the service's files cannot be used: {error.strerror}; create the job again later"
        return Unavailable(Reason.STORAGE_UNAVAILABLE, text)
    traceback.print_exc()
    return Internal(Reason.INTERNAL, "a fault in the runner; the service's log has its trace")


def out_of_memory() -> ResourceExhausted:
    """Return the error of a device whose memory ran out."""
    text = "the task needs more memory than its device has: ask for fewer rows at once, or select fewer parameters"
    return ResourceExhausted(Reason.OUT_OF_MEMORY, text)
