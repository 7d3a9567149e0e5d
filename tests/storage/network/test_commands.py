"""What source nodes and writers of different versions read of each other's messages."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.protocols import amp

from stream.storage.network import commands
from stream.storage.network.interface import UNKNOWN_OWNER, Enquiry, Superseded

ENQUIRIES = [Enquiry(b"k" * 16, b"a" * 8, (123, b"s" * 8)), Enquiry(b"l" * 16, b"b" * 8)]


def test_an_enquiry_names_the_owner_of_its_key() -> None:
    """A source node of an earlier version doesn't."""
    data, owners = commands.encode_enquiries(ENQUIRIES), commands.encode_owners(ENQUIRIES)
    first, second = commands.enquiries_of(data, owners)
    assert (first, second.key) == (ENQUIRIES[0], ENQUIRIES[1].key)
    assert {each.owner for each in commands.enquiries_of(data)} == {UNKNOWN_OWNER}
    sent: Any = commands.Enquire.makeArguments({"enquiries": data, "owners": owners}, None)
    for name in [name for name in sent if name.startswith(b"owners")]:
        del sent[name]
    read = commands.Enquire.parseArguments(sent, amp.AMP())
    assert read == {"enquiries": data, "owners": b""}


@pytest.mark.parametrize("keys", [frozenset(), frozenset([b"k" * 16, b"\0" * 16])])
def test_a_superseded_append_names_the_requests(keys: frozenset[bytes]) -> None:
    """A writer of an earlier version doesn't."""
    error = commands.from_wire(commands.to_wire(Superseded("another attempt", keys)))
    assert isinstance(error, Superseded)
    assert (str(error), error.keys) == ("another attempt", keys)
