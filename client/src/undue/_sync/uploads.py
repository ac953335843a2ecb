# Generated from _async/uploads.py by tools/unasync.py: change that file, then run it with `generate`.
"""Send bytes, in chunks, over streams that may break."""

import uuid

from undue._blobs import Blob, Chunks, blob_of_bytes
from undue._errors import Error, Unavailable
from undue._grpc_blocking import sleep
from undue._retry import FOLLOW
from undue._tensors import INLINE_BYTES, Encoded
from undue.v1 import tensors_pb2, uploads_pb2

from .connection import Connection


def send(connection: Connection, blob: Blob) -> str:
    """Upload a blob, from where an interrupted stream left off; return the name of the finished upload.

    Nothing is sent where the service has the bytes already.

    Raises:
        FailedPrecondition: the file changed meanwhile.
        InvalidArgument: the file cannot be read.
        QuotaExceeded: UPLOAD_TOO_LARGE.
        Unavailable: the service stayed away for about a minute.
    """
    stub = connection.uploads
    declared = uploads_pb2.Upload(size_bytes=blob.size, sha256=blob.sha256)
    request = uploads_pb2.CreateUploadRequest(upload=declared, request_id=str(uuid.uuid4()))
    upload = connection.call(stub.CreateUpload, request)
    pauses = FOLLOW.pauses()
    while upload.state != uploads_pb2.Upload.STATE_FINISHED:
        start = upload.received_bytes
        chunks = Chunks(blob, upload.name, start)
        interruption: Error | None = None
        try:
            upload = connection.upload(stub.WriteUpload, chunks)
        except Error as error:
            chunks.check()
            # An earlier stream may still have been writing when this one started.
            if not isinstance(error, Unavailable) and error.reason != "UPLOAD_OFFSET_MISMATCH":
                raise
            interruption = error
            upload = connection.call(stub.GetUpload, uploads_pb2.GetUploadRequest(name=upload.name))
        else:
            chunks.check()
        if upload.state == uploads_pb2.Upload.STATE_FINISHED:
            break
        if upload.received_bytes > start:
            pauses = FOLLOW.pauses()
        pause = next(pauses, None)
        if pause is None:
            raise interruption or Unavailable(f"the upload of {blob.label} does not move")
        sleep(pause)
    return upload.name


def send_tensor(connection: Connection, array: Encoded, label: str) -> tensors_pb2.Tensor:
    """Return the message of an array: with the bytes inside where they are few, else with the name of their upload.

    Raises:
        Error: as `send`.
    """
    if len(array.content) <= INLINE_BYTES:
        return tensors_pb2.Tensor(dtype=array.dtype, shape=array.shape, data=bytes(array.content))
    upload = send(connection, blob_of_bytes(array.content, label))
    return tensors_pb2.Tensor(dtype=array.dtype, shape=array.shape, upload=upload)
