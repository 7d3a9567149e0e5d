"""The settings shared with the original, whose configurations load unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from stream.settings import Leaf
from stream.settings.convert import convert
from stream.settings.tree import LEAVES_BY_KEY

_FILE = Path(__file__).parent / "keboola.tsv"

OTHER_DEFAULTS = {
    "nodeID": "the name of the machine",
    "hostname": "localhost: one machine needs no setting",
    "pprof.listen": "loopback alone",
    "source.http.maxConnections": "what a process can hold",
}
OTHER_LIMITS = {
    "storage.level.local.encoding.compression.type": "zstd, too",
    "storage.level.target.import.minInterval": "from 1s on",
    "storage.level.target.import.trigger.interval": "from 1s on",
}
"""Limits that are higher than in the original."""

ZERO_IS_MISSING = {
    "storage.metadataCleanup.errorTolerance",
    "storage.metadataCleanup.archivedFileRetentionPerSink",
    "storage.jobCleanup.errorTolerance",
}
"""Their range begins with 0, but they are required, and 0 means a missing value."""


@attrs.frozen
class Original:
    """A setting of the original."""

    key: str
    env: str
    default: str
    limits: str
    override: str

    @property
    def leaf(self) -> Leaf:
        return LEAVES_BY_KEY[self.key]


ORIGINALS = [
    Original(*("" if field == "-" else field for field in line.split("\t")))
    for line in _FILE.read_text().splitlines()
    if not line.startswith("#")
]


def test_all_settings_of_the_original_exist() -> None:
    """The 130 settings have the same keys and variables, from which flags are derived."""
    assert len(ORIGINALS) == 130
    for original in ORIGINALS:
        assert original.leaf.env == original.env
        assert original.leaf.flag == original.env.removeprefix("STREAM_").lower().replace("_", "-")


def test_defaults_are_the_same() -> None:
    """Defaults are the same except for the listed ones."""
    different = {
        original.key
        for original in ORIGINALS
        if convert(original.leaf.type, original.default) != original.leaf.default
    }
    assert different == set(OTHER_DEFAULTS)


def test_users_may_override_the_same_settings() -> None:
    """Users may override the same settings of a source or a sink, and see the same
    protected ones.
    """
    marks = {"user": "U", "protected": "P", "unlisted": "", None: ""}
    for original in ORIGINALS:
        assert marks[original.leaf.override] == original.override, original.key


@pytest.mark.parametrize(
    "original", [o for o in ORIGINALS if o.limits], ids=lambda original: original.key
)
def test_limits_are_the_same_or_higher(original: Original) -> None:
    """Valid values are valid here, and invalid ones are invalid unless the limit is higher."""
    leaf = original.leaf

    def passes(value: Any) -> bool:
        return leaf.rule.violation(value) is None

    if ".." not in original.limits:
        words = original.limits.split("|")
        assert all(map(passes, words))
        assert not passes("other")
        assert leaf.rule.argument("oneof") == " ".join(words) or original.key in OTHER_LIMITS
        return
    least, greatest = original.limits.split("..")
    if leaf.is_list:
        assert passes(("one",) * int(least))
        assert not passes(())
        return
    if least and original.key not in OTHER_LIMITS:
        low = convert(leaf.type, least)
        assert passes(low) is (original.key not in ZERO_IS_MISSING)
        assert not passes(_beyond(low, -1))
    high = convert(leaf.type, greatest)
    assert passes(high)
    assert not passes(_beyond(high, 1))


def _beyond(value: Any, step: int) -> Any:
    # numeric settings can be attrs values or subclasses of numbers
    if attrs.has(type(value)):
        return attrs.evolve(value, nanoseconds=value.nanoseconds + step)
    return type(value)(value + step)
