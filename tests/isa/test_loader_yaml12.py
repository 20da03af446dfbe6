"""YAML 1.2 scalars, positions, and what a hostile file meets."""

import pytest

from isa.errors import ConfigError
from isa.yaml12 import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_NUMBER_CHARS, Branch, Items, Leaf, parse


def scalar(text):
    tree, faults = parse(f"x: {text}", "f.yaml")
    assert not faults
    return tree.entries["x"].value


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e9", 1e9), ("1E+3", 1000.0), ("-2.5", -2.5), (".5", 0.5), ("5.", 5.0), (".inf", float("inf")),
        ("12", 12), ("-3", -3), ("+4", 4), ("010", 10), ("0o10", 8), ("0x1F", 31),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("12:30", "12:30"), ("1_000", "1_000"),
        ("0b11", "0b11"), ("2024-01-01", "2024-01-01"), ("0.94 GHz", "0.94 GHz"), ("'12'", "12"), ("!!str 12", "12"),
        ("tRuE", "tRuE"), ("1e", "1e"), ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text, value):
    got = scalar(text)
    assert got == value and type(got) is type(value)


def test_nan_is_a_float():
    assert scalar(".nan") != scalar(".nan")


def test_positions_are_those_of_keys_and_items():
    tree, _ = parse("a: 1\nb:\n  c: [x,\n      {d: 2}]\n", "f.yaml")
    c = tree.entries["b"].entries["c"]
    assert isinstance(tree, Branch) and isinstance(c, Items) and isinstance(c.items[0], Leaf)
    assert str(tree.entries["a"].position) == "f.yaml:1:1"
    assert str(c.position) == "f.yaml:3:3"
    assert str(c.items[0].position) == "f.yaml:3:7"
    assert str(c.items[1].entries["d"].position) == "f.yaml:4:8"


def test_aliases_are_expanded_at_their_place():
    tree, faults = parse("a: &x {k: 1}\nb: *x\n", "f.yaml")
    assert not faults
    assert tree.entries["b"].entries["k"].value == 1
    assert tree.entries["b"].position.line == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: duplicate key, first given at f.yaml:1:1"),
        ("m:\n  k: 1\n  k: 1\n", "f.yaml:3:3: m.k: duplicate key, first given at f.yaml:2:3"),
        ("1: x\n", "f.yaml:1:1: a key must be a string, not '1'"),
        ("null: x\n", "a key must be a string"),
        ("? [a, b]\n: 1\n", "a key must be a string"),
        ("x: !!python/object:os.system {}\n", "x: tag 'tag:yaml.org,2002:python/object:os.system' is not allowed"),
        ("x: !mine 3\n", "x: tag '!mine' is not allowed"),
        ("x: !!set {a}\n", "tag 'tag:yaml.org,2002:set' is not allowed"),
        ("x: !!int abc\n", "x: 'abc' is not a int"),
        (f"x: {'9' * (MAX_NUMBER_CHARS + 1)}\n", f"x: a number of {MAX_NUMBER_CHARS + 1} characters"),
    ],
)
def test_faults_are_listed_and_reading_goes_on(text, message):
    tree, faults = parse(text + "last: 7\n", "f.yaml")
    assert len(faults) == 1 and message in str(faults[0])
    assert tree.entries["last"].value == 7


def test_a_number_of_the_largest_length_is_read():
    assert scalar("9" * MAX_NUMBER_CHARS) == 10**MAX_NUMBER_CHARS - 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [1, 2\n", "malformed YAML"),
        ("a: 1\n  b: 2\n", "f.yaml:2:4: malformed YAML"),
        ("a: 'x\n", "malformed YAML"),
        ("a: *nowhere\n", "undefined alias"),
        ("a: 1\n---\nb: 2\n", "malformed YAML"),
        ("a: \x00\n", "malformed YAML"),
        ("", "f.yaml: the file is empty"),
        ("# only a comment\n", "f.yaml: the file is empty"),
        ("[" * 100_000, "nested deeper"),
        ("- " * 100_000, "nested deeper"),
        ("a: &a [*a]\n", "nested deeper"),
        ("x: '" + "a" * MAX_BYTES + "'", "larger than the limit"),
    ],
)
def test_unreadable_documents_raise(text, message):
    with pytest.raises(ConfigError, match=r"f\.yaml") as error:
        parse(text, "f.yaml")
    assert message in str(error.value)


def test_depth_limit_from_both_sides():
    parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f")
    with pytest.raises(ConfigError, match="nested deeper"):
        parse("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "f")


def test_node_limit_from_both_sides():
    parse("[" + "1," * (MAX_NODES - 1) + "]", "f")
    with pytest.raises(ConfigError, match=f"more than {MAX_NODES} values"):
        parse("[" + "1," * MAX_NODES + "]", "f")


def test_alias_bomb_is_stopped():
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else '1'}]" for i in range(12)]
    with pytest.raises(ConfigError, match="once aliases are expanded"):
        parse("\n".join(levels), "f")
