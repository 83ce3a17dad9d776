"""Configuration: round trips through TOML, errors that name the key and the nearest known one."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from steepest.config import RoomConfig, build, dump_toml, override, parse_bytes, parse_count, parse_duration
from steepest.errors import ConfigError


class Inner(RoomConfig):
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    name: str | None = None


class Outer(RoomConfig):
    optim: Inner = Inner()
    sources: list[str] = ["a"]
    flag: bool = False


@given(
    lr=st.floats(min_value=1e-300, max_value=1e300),
    name=st.none() | st.text(st.characters(codec="utf-8")),
    sources=st.lists(st.text(st.characters(codec="utf-8"))),
    flag=st.booleans(),
)
def test_toml_round_trip_is_exact(lr: float, name: str | None, sources: list[str], flag: bool) -> None:
    config = Outer(optim=Inner(lr=lr, name=name), sources=sources, flag=flag)
    assert build(Outer, tomllib.loads(dump_toml(config))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"rl": 1}}, 'unknown key "optim.rl"; did you mean "lr"'),
        ({"optm": {"lr": 1}}, 'unknown key "optm"; did you mean "optim"'),
        ({"optim": {"lr": -1}}, '"optim.lr": input should be greater than 0; got -1'),
        ({"optim": {"lr": "fast"}}, '"optim.lr": input should be a valid number'),
        ({"optim": 3}, '"optim"'),
    ],
)
def test_errors_name_key_value_and_remedy(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_override_reads_toml_values_and_plain_words() -> None:
    changed = override({}, ["optim.lr=2e-3", "flag=true", 'sources=["x","y"]', "optim.name=adam w"])
    config = build(Outer, changed)
    assert (config.optim.lr, config.flag, config.sources, config.optim.name) == (
        2e-3,
        True,
        ["x", "y"],
        "adam w",
    )


@pytest.mark.parametrize("change", ["lr", "=3", "sources.x=1"])
def test_override_refuses_what_it_cannot_read(change: str) -> None:
    with pytest.raises(ConfigError):
        build(Outer, override({"sources": ["a"]}, [change]))


def test_replace_keeps_what_was_given_apart_from_defaults() -> None:
    config = build(Outer, {"flag": True}).replace(sources=["b"])
    assert config.model_fields_set == {"flag", "sources"}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "-3m", "3 m", "m"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ConfigError, match="a duration is written like"):
        parse_duration(text)


def test_counts_and_bytes() -> None:
    assert [parse_count(text) for text in ("1500", "20k", "1.5M", "1e6", "1_000")] == [
        1500,
        20_000,
        1_500_000,
        10**6,
        1000,
    ]
    assert [parse_bytes(text) for text in ("512MB", "2GiB", "2 gb", "7")] == [
        512_000_000,
        2**31,
        2 * 10**9,
        7,
    ]
    for bad in ("", "x", "1Q"):
        with pytest.raises(ConfigError):
            parse_count(bad)
        with pytest.raises(ConfigError):
            parse_bytes(bad)


def test_an_objective_is_told_apart_by_its_kind() -> None:
    from steepest.train.run import RunConfig

    assert build(RunConfig, {}).objective.kind == "next-token"
    assert build(RunConfig, {"objective": {"metric": "loss"}}).objective.kind == "next-token"
    config = build(RunConfig, {"objective": {"kind": "classification", "metric": "accuracy"}})
    assert config.replace(train=config.train.replace(steps=3)).objective == config.objective
    for objective, said in [
        ({"kind": "clasification"}, 'no kind "clasification"; did you mean "classification"'),
        ({"kind": "classification", "metrc": 1}, 'unknown key "objective.metrc"; did you mean "metric"'),
        ({"metric": "macro_f1"}, 'objective next-token has no metric "macro_f1"'),
        ({"kind": "classification", "metric": "macro_f2"}, 'did you mean "macro_f1"'),
    ]:
        with pytest.raises(ConfigError, match=said):
            build(RunConfig, {"objective": objective})
