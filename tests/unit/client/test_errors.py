import asyncio
import pickle
import socket

import grpc
import pytest

import undue
from undue._errors import ERRORS_BY_CODE

CLASSES = {
    grpc.StatusCode.CANCELLED: undue.Cancelled,
    grpc.StatusCode.UNKNOWN: undue.Internal,
    grpc.StatusCode.INVALID_ARGUMENT: undue.InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: undue.DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: undue.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: undue.AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: undue.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: undue.QuotaExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: undue.FailedPrecondition,
    grpc.StatusCode.ABORTED: undue.Unavailable,
    grpc.StatusCode.OUT_OF_RANGE: undue.InvalidArgument,
    grpc.StatusCode.UNIMPLEMENTED: undue.Unimplemented,
    grpc.StatusCode.INTERNAL: undue.Internal,
    grpc.StatusCode.UNAVAILABLE: undue.Unavailable,
    grpc.StatusCode.DATA_LOSS: undue.Internal,
    grpc.StatusCode.UNAUTHENTICATED: undue.Unauthenticated,
}


def test_every_status_has_a_class() -> None:
    assert {code.name for code in grpc.StatusCode} - {"OK"} == set(ERRORS_BY_CODE) == {code.name for code in CLASSES}


@pytest.mark.parametrize("code", CLASSES, ids=lambda code: code.name)
def test_a_status_with_details_becomes_its_class_with_everything_it_said(fake, client, status, code) -> None:
    fake.refusal = status(code, "SOME_REASON", "what to do", {"key": "value"}, fields={"model.l2": "negative"})
    with pytest.raises(undue.Error) as caught:
        client.models.get("m")
    error = caught.value
    assert type(error) is CLASSES[code]
    assert (error.reason, error.message, error.metadata) == ("SOME_REASON", "what to do", {"key": "value"})
    assert error.request_id == "request-7"
    assert error.violations == (undue.FieldViolation("model.l2", "negative"),)
    assert error.__cause__ is None
    assert error.__context__ is None  # nothing of gRPC hangs on


def test_a_reason_of_another_domain_is_not_ours(fake, client, status) -> None:
    fake.refusal = status(grpc.StatusCode.NOT_FOUND, "PROXY_SAYS", "no route", domain="proxy.example")
    with pytest.raises(undue.NotFound, match="no route") as caught:
        client.models.get("m")
    assert caught.value.reason == "NOT_FOUND"
    assert fake.address in caught.value.message


def test_the_asyncio_client_raises_the_same(fake, status) -> None:
    fake.refusal = status(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such model")

    async def call() -> None:
        async with undue.AsyncClient(fake.address) as client:
            await client.models.get("m")

    with pytest.raises(undue.NotFound, match="no such model") as caught:
        asyncio.run(call())
    assert (caught.value.reason, caught.value.request_id) == ("RESOURCE_NOT_FOUND", "request-7")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_nobody_there_names_the_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    with undue.Client(address) as client, pytest.raises(undue.Unavailable, match=address):
        client.server_info()


def test_nobody_there_is_the_same_from_iterators() -> None:
    address = f"127.0.0.1:{free_port()}"
    with undue.Client(address) as client, pytest.raises(undue.Unavailable, match=address):
        list(client.models.list())

    async def each() -> None:
        async with undue.AsyncClient(address) as client:
            async for _ in client.jobs.list():
                pass

    with pytest.raises(undue.Unavailable, match=address):
        asyncio.run(each())


def test_a_closed_client_says_so(fake) -> None:
    client = undue.Client(fake.address)
    client.close()
    client.close()
    with pytest.raises(undue.FailedPrecondition, match="closed"):
        client.server_info()


def test_an_asyncio_client_needs_a_loop() -> None:
    with pytest.raises(undue.FailedPrecondition, match="coroutine"):
        undue.AsyncClient("127.0.0.1:1")


def test_a_forked_client_says_so(fake, client, monkeypatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(undue.FailedPrecondition, match="fork"):
        client.server_info()


@pytest.mark.parametrize("cls", sorted(set(CLASSES.values()) | {undue.JobFailed}, key=lambda cls: cls.__name__))
def test_errors_survive_pickling(cls) -> None:
    error = cls("text", reason="WHY", metadata={"a": "b"}, request_id="7")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (str(copy), copy.reason, copy.metadata, copy.request_id) == ("text [WHY]", "WHY", {"a": "b"}, "7")
