"""The settings that Keboola Stream has, too: its configurations load unchanged."""

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
"""Limits that are higher than the original's."""

ZERO_IS_MISSING = {
    "storage.metadataCleanup.errorTolerance",
    "storage.metadataCleanup.archivedFileRetentionPerSink",
    "storage.jobCleanup.errorTolerance",
}
"""Their range begins with 0, but they are required, and 0 is the missing value."""


@attrs.frozen
class Original:
    """A line of the file."""

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


def test_all_are_there() -> None:
    """There are 130, under the names of their keys and variables; flags follow from these."""
    assert len(ORIGINALS) == 130
    for original in ORIGINALS:
        assert original.leaf.env == original.env
        assert original.leaf.flag == original.env.removeprefix("STREAM_").lower().replace("_", "-")


def test_defaults_are_the_same_but_for_known_ones() -> None:
    """Defaults are the same but for those that are known to differ."""
    different = {
        original.key
        for original in ORIGINALS
        if convert(original.leaf.type, original.default) != original.leaf.default
    }
    assert different == set(OTHER_DEFAULTS)


def test_users_may_override_the_same_settings() -> None:
    """Users may replace the same ones for a source or a sink, and see the same protected ones."""
    marks = {"user": "U", "protected": "P", "unlisted": "", None: ""}
    for original in ORIGINALS:
        assert marks[original.leaf.override] == original.override, original.key


@pytest.mark.parametrize(
    "original", [o for o in ORIGINALS if o.limits], ids=lambda original: original.key
)
def test_limits_are_the_same_unless_more_is_allowed(original: Original) -> None:
    """Values within the limits are valid; others aren't, unless the limit is higher here."""
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
    # attrs values of one number, numbers of their own type
    if attrs.has(type(value)):
        return attrs.evolve(value, nanoseconds=value.nanoseconds + step)
    return type(value)(value + step)
