"""Validation rules of values."""

from __future__ import annotations

from typing import Any

import pytest

from stream.settings import LEAVES, Leaf
from stream.settings.address import split_address
from stream.settings.rules import Rule, is_url
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration
from tests.settings.samples import bounds

BOUNDED = [leaf for leaf in LEAVES if leaf.type in {int, Duration, ByteSize} and any(bounds(leaf))]


@pytest.mark.parametrize("leaf", BOUNDED, ids=lambda leaf: leaf.key)
def test_limits(leaf: Leaf) -> None:
    """A limit itself is valid, and the next value beyond it isn't."""
    low, high = bounds(leaf)
    if low:
        assert leaf.rule.violation(low) is None
        assert leaf.rule.violation(_next_to(low, -1), zero_is_a_number=True) is not None
    if high:
        assert leaf.rule.violation(high) is None
        problem = leaf.rule.violation(_next_to(high, 1))
        assert problem is not None
        assert problem.startswith("must be ")
        assert problem.endswith(" or less")


def _next_to(value: Any, step: int) -> Any:
    if isinstance(value, Duration):
        return Duration(value.nanoseconds + step)
    return type(value)(value + step)


@pytest.mark.parametrize(
    ("rule", "value", "problem"),
    [
        ("required", "", "is a required field"),
        ("required", 0, "is a required field"),
        ("required", Duration(0), "is a required field"),
        ("required", (), "is a required field"),
        ("", "", None),
        ("", -1, "must be 0 or greater"),
        ("", Duration(-1), "must be 0s or greater"),
        ("min=1,max=9", 0, "must be 1 or greater"),
        ("min=1", (), "must be 1 or greater"),
        ("maxBytes=16MB", ByteSize.parse("17MB"), "must be 16MB or less"),
        ("minDuration=1s", Duration.parse("999ms"), "must be 1s or greater"),
        ("oneof=disk cache", "tape", "must be one of [disk cache]"),
        ("len=32", b"short", "is invalid: must be 32 bytes long"),
        ("len=32", b"k" * 32, None),
        ("hostname_port", ":7000", None),
        ("hostname_port", "[::1]:0", None),
        ("hostname_port", "7000", "is invalid: must be host:port, the port is missing"),
        ("networks", ("10.0.0.0/8", "::1"), None),
        ("networks", ("x",), 'is invalid: "x" is neither an IP address nor a network'),
        ("url", "ftp://host", "is invalid: must be an absolute http(s) URL"),
        ("endpoints", "etcd:2379, http://etcd-2:2379/,[::1]:2379", None),
        ("endpoints", "", None),
        *(
            (
                "endpoints",
                wrong,
                "is invalid: must be host:port or an absolute http(s) URL without a password",
            )
            for wrong in (
                "etcd",
                ",",
                "etcd:x",
                ":2379",
                "etcd:0",
                "a:1,b c:2",
                "http://u:p@etcd:2379",
            )
        ),
        ("host_or_url", "connection.keboola.com", None),
        ("host_or_url", "127.0.0.1:8001", None),
        ("host_or_url", "http://127.0.0.1:8001", None),
        ("host_or_url", "host:0", "is invalid: must be a host name or an absolute http(s) URL"),
        ("host_or_url", "host:²", "is invalid: must be a host name or an absolute http(s) URL"),
        (
            "host_or_url",
            "not a host",
            "is invalid: must be a host name or an absolute http(s) URL",
        ),
    ],
)
def test_the_text_of_conditions(rule: str, value: Any, problem: str | None) -> None:
    """Each condition has its text."""
    assert Rule.parse(rule).violation(value) == problem


def test_an_unknown_condition() -> None:
    """A misspelt condition is an error when the module is imported."""
    with pytest.raises(ValueError, match='unknown condition "mni"'):
        Rule.parse("mni=1")


@pytest.mark.parametrize("text", ["http://u:p@host", "http://", "host", "http://a b", "http://h:x"])
def test_invalid_urls(text: str) -> None:
    """A URL needs a host and may not contain a password, and its port is a number."""
    assert not is_url(text)


def test_split_address() -> None:
    """The host has no brackets, and is empty for all interfaces."""
    assert split_address("0.0.0.0:7000") == ("0.0.0.0", 7000)
    assert split_address(":0") == ("", 0)
    assert split_address("[::1]:80") == ("::1", 80)
    for wrong in (
        "host",
        "host:",
        "host:99999",
        "host:-1",
        "[::g]:1",
        "a b:1",
        "h:²",
        "h:" + "9" * 5000,
    ):
        with pytest.raises(ValueError):
            split_address(wrong)
