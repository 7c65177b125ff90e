"""Configuration, secrets, and what `${name}` stands for."""

from __future__ import annotations

from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.chaostoolkit.values import Values, configuration, secrets, variables


def test_configuration_comes_from_file_environment_and_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of the environment has a default and a type; what is given on the command line comes first."""
    monkeypatch.setenv("PORT", "8080")
    tables = {
        "host": "127.0.0.1",
        "port": {"type": "env", "key": "PORT", "env_var_type": "int"},
        "user": {"type": "env", "key": "NO_SUCH_VARIABLE", "default": "nobody"},
        "kept": {"type": "elsewhere"},
        "token": "t",
    }
    assert configuration(tables, {"token": "mine"}) == {
        "host": "127.0.0.1",
        "port": 8080,
        "user": "nobody",
        "kept": {"type": "elsewhere"},
        "token": "mine",
    }


def test_secrets_come_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group may hold values of the file and of the environment; a function gets those that its activity names."""
    monkeypatch.setenv("TOKEN", "s3cret")
    found = secrets({"shop": {"token": {"type": "env", "key": "TOKEN"}, "user": "me"}, "bank": {"pin": 1}})
    assert found == {"shop": {"token": "s3cret", "user": "me"}, "bank": {"pin": 1}}
    assert Values({}, found).groups(["shop", "unknown"]) == {"token": "s3cret", "user": "me"}
    assert Values({}, found).fill("${token}/${pin}") == "s3cret/1"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${number}", 5),
        ("$number", 5),
        ("n=${number}", "n=5"),
        ("${list}", [1]),
        ("${HOME}/x", "${HOME}/x"),
        ("$$5", "$5"),
        ("${both}", "configuration"),
        ({"a": ["${number}", 1, None]}, {"a": [5, 1, None]}),
    ],
)
def test_a_placeholder_keeps_the_type_of_its_value(text: Any, filled: Any) -> None:
    """Alone it is the value, in a text it is its text, and an unknown one stays for a shell."""
    values = Values({"number": 5, "list": [1], "both": "configuration"}, {"group": {"both": "secret"}})
    assert values.fill(text) == filled


def test_without_values_nothing_is_looked_at() -> None:
    """As there: a shell's own `$$` stays."""
    assert Values({}, {}).fill("echo $$ ${x}") == "echo $$ ${x}"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: configuration({"a": {"type": "env", "key": "NO_SUCH"}}, {}), "configuration.a is taken from the env"),
        (lambda: configuration({"a": {"type": "env"}}, {}), "configuration.a.key is None"),
        (
            lambda: configuration({"a": {"type": "env", "key": "X", "default": "y", "env_var_type": "int"}}, {}),
            "configuration.a is 'y'; it takes a text that can be read as int",
        ),
        (lambda: configuration({"host": 1}, {"hots": 2}), r"unknown configuration 'hots' \(did you mean 'host'\?\)"),
        (lambda: secrets({"g": {"k": {"type": "vault", "key": "x"}}}), "secrets.g.k is kept in a vault"),
        (lambda: variables(["novalue"]), "--var is 'novalue'; it takes name=value"),
        (lambda: variables(["a:complex=1"]), "unknown type 'complex'"),
    ],
)
def test_what_cannot_be_had_is_told(read: Any, message: str) -> None:
    """One message, with the key and what would do."""
    with pytest.raises(ConfigurationError, match=message):
        read()


def test_variables_have_types() -> None:
    """As on the Chaos Toolkit's command line."""
    given = variables(["a=x=y", "b:int=3", "c:float=.5", "d:bool=no", 'e:json={"k": [1]}', "f:bytes=z"])
    assert given == {"a": "x=y", "b": 3, "c": 0.5, "d": False, "e": {"k": [1]}, "f": b"z"}
