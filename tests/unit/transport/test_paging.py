import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue.v1 import jobs_pb2
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.transport.paging import MAX_PAGE_SIZE, page_size, read_token, request_key, write_token


@given(st.integers(0, 10**17), st.text(max_size=30))
def test_a_token_gives_its_position_back_to_its_listing_only(position, listing):
    token = write_token(position, listing)
    assert read_token(jobs_pb2.ListJobsRequest(page_token=token), listing) == position
    with pytest.raises(InvalidArgument) as caught:
        read_token(jobs_pb2.ListJobsRequest(page_token=token), listing + "x")
    assert caught.value.reason is Reason.INVALID_PAGE_TOKEN


@given(st.text())
def test_other_tokens_are_refused(token):
    request = jobs_pb2.ListJobsRequest(page_token=token)
    try:
        assert write_token(read_token(request, "jobs"), "jobs") == token
    except InvalidArgument as error:
        assert error.reason is Reason.INVALID_PAGE_TOKEN


def test_no_position_is_no_token():
    assert write_token(None, "jobs") == ""
    assert read_token(jobs_pb2.ListJobsRequest(), "jobs") is None


def test_page_sizes():
    assert page_size(jobs_pb2.ListJobsRequest()) == 50
    assert page_size(jobs_pb2.ListJobsRequest(page_size=7)) == 7
    assert page_size(jobs_pb2.ListJobsRequest(page_size=10**6)) == MAX_PAGE_SIZE


def test_the_same_request_has_the_same_key_and_another_has_another():
    identity = str(uuid.uuid4())
    one = jobs_pb2.CreateJobRequest(request_id=identity)
    other = jobs_pb2.CreateJobRequest(request_id=identity, job=jobs_pb2.Job(timeout_seconds=1))
    assert request_key(one, identity) == request_key(one, identity)
    assert request_key(one, identity).fingerprint != request_key(other, identity).fingerprint
    assert request_key(one, "") is None
    spelled = identity.upper()
    assert request_key(one, spelled).id == request_key(one, identity).id
