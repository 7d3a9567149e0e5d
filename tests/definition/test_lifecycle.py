from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs

from stream.definition import lifecycle
from stream.definition.entity import Source
from tests.definition.conftest import BY, SINK, SOURCE, START, TABLE

LATER = START + timedelta(hours=1)


def source(**changes: Any) -> Source:
    made = lifecycle.new_source(SOURCE, type="http", name="Name", secret="s" * 48, at=START, by=BY)
    changed: Source = attrs.evolve(made, **changes)
    return changed


def test_a_new_entity_is_in_its_first_version() -> None:
    """Versions start at 1, with different descriptions for sources and sinks."""
    sink = lifecycle.new_sink(SINK, name="Name", table=TABLE, at=START, by=BY)
    assert (source().version.number, source().version.description) == (1, "New source.")
    assert (sink.version.number, sink.version.description) == (1, "New sink.")


def test_the_hash_depends_on_the_content_alone() -> None:
    """The number, the time and the description of a version don't change its hash."""
    changed = lifecycle.next_version(source(), "Anything.", LATER, BY)
    assert changed.version.hash == source().version.hash
    assert len(changed.version.hash) == 16
    renamed = lifecycle.next_version(source(name="Other"), "Anything.", LATER, BY)
    assert renamed.version.hash != changed.version.hash


def test_switching_keeps_one_of_two_states() -> None:
    """An entity is never marked as disabled and enabled at once."""
    disabled = lifecycle.disable(source(), LATER, BY, directly=True, reason="API")
    assert disabled.disabled is not None
    assert disabled.disabled.reason == "API"
    assert not lifecycle.is_active(disabled)
    enabled = lifecycle.enable(disabled, LATER, BY)
    assert enabled.disabled is None
    assert enabled.enabled is not None
    assert lifecycle.is_active(enabled)


def test_deletion_keeps_one_of_two_states() -> None:
    """An entity is never marked as deleted and undeleted immediately."""
    deleted = lifecycle.delete(source(), LATER, BY, directly=False)
    assert not lifecycle.is_active(deleted)
    undeleted = lifecycle.undelete(deleted, LATER, BY)
    assert undeleted.deleted is None
    assert undeleted.undeleted is not None
    again = lifecycle.delete(undeleted, LATER, BY, directly=True)
    assert again.undeleted is None


def test_rollback_restores_the_content_only() -> None:
    """A rollback restores name and secret, but a disabled source stays disabled."""
    first = source()
    latest = lifecycle.with_secret(source(name="Other"), "otlp", "t" * 48)
    latest = lifecycle.disable(latest, LATER, BY, directly=True, reason="API")
    latest = lifecycle.next_version(latest, "Disabled.", LATER, BY)
    back = lifecycle.rollback(latest, first, LATER, BY)
    assert (back.name, back.type, back.secret) == ("Name", "http", "s" * 48)
    assert back.otlp is None
    assert back.disabled == latest.disabled
    assert (back.version.number, back.version.description) == (3, 'Rollback to version "1".')


def test_recreation_continues_the_numbers() -> None:
    """An entity created with a deleted id gets its own creation time and the next version
    number.
    """
    deleted = lifecycle.delete(source(), START, BY, directly=True)
    created = lifecycle.new_source(
        SOURCE, type="otlp", name="Again", secret="t" * 48, at=LATER, by=BY
    )
    revived = lifecycle.revive(created, deleted, LATER, BY)
    assert revived.created.at == START
    assert revived.version.number == 2
    assert revived.version.description == "New source."
    assert revived.undeleted is not None
    assert (revived.name, revived.secret) == ("Again", "t" * 48)
