"""The services: each method turns a request into values, calls one use case, and turns the answer into a message.

Use cases do short, blocking work on files and the database, so they run in threads.
"""

from .cases import UseCases
from .indexes import IndexServicer
from .installation import ServerServicer
from .jobs import JobServicer
from .registrations import DatasetServicer, ModelServicer
from .uploads import UploadServicer

__all__ = [
    "DatasetServicer",
    "IndexServicer",
    "JobServicer",
    "ModelServicer",
    "ServerServicer",
    "UploadServicer",
    "UseCases",
]
