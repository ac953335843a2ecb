"""Which architectures may be named, and with which options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.architectures import ARCHITECTURES, ArchitectureChoice, Architectures
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ModelSpec, ObjectiveSpec
from undue_service.wire.codec import RESOURCE_SPEC

NEEDED = {"mlp": {"sizes": (4, 3)}, "transformer": {"vocabulary": 10, "length": 5}}
VALUES = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.lists(st.integers(-5, 2**40), max_size=70).map(tuple)
)


def settle(name, allowed=None, **options):
    known = Architectures() if allowed is None else Architectures(allowed)
    return known.settle("model.architecture", ArchitectureChoice(name, NEEDED.get(name, {}) | options))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_left_out_has_its_default(name) -> None:
    settled = settle(name)
    assert list(settled.options) == [option.name for option in ARCHITECTURES[name].options]
    for option in ARCHITECTURES[name].options:
        if option.default is not None:
            assert settled.options[option.name] == option.default
            assert option.check("", option.default) == option.default
    assert settle(name, **settled.options) == settled


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet18", {"depth": 18}, "no option 'depth'; it has channels, size, classes, width, stem"),
        ("resnet18", {"classes": 0}, "a whole number from 1 to 65,536"),
        ("resnet18", {"classes": 10.0}, "a whole number"),
        ("resnet18", {"classes": True}, "a whole number"),
        ("resnet18", {"classes": "ten"}, "a whole number"),
        ("resnet18", {"width": 10**9}, "a whole number from 1 to 1,024"),
        ("resnet50", {"stem": "small"}, "imagenet or cifar"),
        ("lenet", {"activation": ("relu",)}, "relu or tanh"),
        ("mlp", {"sizes": (4,)}, "2 to 64 whole numbers"),
        ("mlp", {"sizes": (4, 0)}, "2 to 64 whole numbers"),
        ("mlp", {"sizes": 4}, "2 to 64 whole numbers"),
        ("transformer", {"dim": 6, "heads": 4}, "6 is no multiple of the 4 heads"),
        ("transformer", {"pad": 10}, "10 is no token"),
    ],
)
def test_wrong_options_say_what_may_be_given(name, options, said) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        settle(name, **options)
    assert caught.value.violations[0].field.startswith("model.architecture.options")


def test_what_has_no_default_is_needed() -> None:
    with pytest.raises(InvalidArgument, match="needs 'sizes', 2 to 64 whole numbers"):
        Architectures().settle("model.architecture", ArchitectureChoice("mlp", {}))


@given(st.sampled_from(sorted(ARCHITECTURES)), st.data())
def test_any_options_are_settled_or_a_typed_error(name, data) -> None:
    names = [option.name for option in ARCHITECTURES[name].options]
    options = data.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=5), VALUES, max_size=4))
    try:
        settled = Architectures().settle("architecture", ArchitectureChoice(name, NEEDED.get(name, {}) | options))
    except InvalidArgument:
        return
    spec = ModelSpec("safetensors", "ab", ObjectiveSpec("cross_entropy"), architecture=settled)
    loaded = RESOURCE_SPEC.load(RESOURCE_SPEC.dump(spec))
    assert repr(loaded) == repr(spec), "another type of number has come back"


def test_what_is_not_allowed_is_not_there() -> None:
    for name in ("vgg", "resnet50", "", "x" * 10_000):
        with pytest.raises(InvalidArgument, match="there are resnet18, ours") as caught:
            settle(name, ("resnet18", "ours"))
        assert caught.value.reason is Reason.ARCHITECTURE_UNKNOWN
        assert len(caught.value.message) < 500
    with pytest.raises(InvalidArgument, match="allows none"):
        settle("resnet18", ())


def test_the_options_of_an_installed_one_are_for_the_runner() -> None:
    assert settle("ours", ("ours",), anything=(1, 2)).options == {"anything": (1, 2)}


def test_a_setting_names_what_is_allowed() -> None:
    assert Architectures.of_setting(["builtin"], {"ours": 1}).allowed == tuple(ARCHITECTURES)
    assert Architectures.of_setting(["mlp", "ours"], {"ours": 1, "other": 1}).allowed == ("mlp", "ours")
    assert Architectures.of_setting(["mlp", "builtin"], {}).allowed[:2] == ("mlp", "lenet")
    assert Architectures.of_setting([], {"ours": 1}).allowed == ()
    with pytest.raises(InvalidArgument, match=r"no architecture 'vgg' to allow; there are .*resnet18.* ours") as caught:
        Architectures.of_setting(["builtin", "vgg"], {"ours": 1})
    assert caught.value.reason is Reason.SETTINGS_INVALID
    for installed in ({"ours": 2}, {"mlp": 1}):
        with pytest.raises(InvalidArgument, match="another name"):
            Architectures.of_setting(list(installed), installed)
