import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.names import check_id, new_token, parse_token, parse_version

IDS = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(IDS, st.integers(1, 999_999_999))
def test_version_names_round_trip(resource_id, number):
    assert check_id("f", resource_id) == resource_id
    assert parse_version("f", f"models/{resource_id}/versions/{number}", "models") == (resource_id, number)
    assert parse_version("f", f"datasets/{resource_id}", "datasets") == (resource_id, None)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "models",
        "models/",
        "models/A",
        "models/a/versions",
        "models/a/versions/0",
        "models/a/versions/01",
        "datasets/a",
        "models/a/versions/-1",
        "models/a/versions/1/x",
        "models/../versions/1",
        "models/a\n",
        "models/a/versions/9999999999",
    ],
)
def test_other_names_are_refused_with_the_form_they_must_have(name):
    with pytest.raises(InvalidArgument, match=r"models/\{model\}") as caught:
        parse_version("name", name, "models")
    assert caught.value.reason is Reason.INVALID_NAME
    assert caught.value.violations[0].field == "name"


@given(st.text())
def test_no_text_breaks_the_parsers(text):
    for parse in (
        lambda: check_id("f", text),
        lambda: parse_version("f", text, "models"),
        lambda: parse_token("f", text, "jobs"),
    ):
        try:
            parse()
        except InvalidArgument as error:
            assert error.reason is Reason.INVALID_NAME


def test_tokens_are_fresh_and_parse():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(parse_token("f", f"jobs/{token}", "jobs") == token for token in tokens)
