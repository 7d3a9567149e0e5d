"""The client's address is a plain address, whatever the headers."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from hypothesis import example, given
from hypothesis import strategies as st

from stream.source.http.client import MAX_HOPS, ClientAddress
from stream.source.http.head import Head, read_head
from stream.values.ip import without_scope

_ADDRESSES = st.ip_addresses().map(str)
_HEADER_TEXT = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
)
_HOPS = st.one_of(
    _ADDRESSES,
    _HEADER_TEXT,
    st.builds("{}%{}".format, _ADDRESSES, _HEADER_TEXT),
    st.builds("[{}%{}]:{}".format, _ADDRESSES, _HEADER_TEXT, st.integers(0, 70_000)),
)
_EVERYBODY = ClientAddress(["0.0.0.0/0", "::/0"])


def _head(*lines: str) -> Head:
    fields = "".join(f"X-Forwarded-For: {line}\r\n" for line in lines)
    return read_head(f"POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode("latin-1"))


@given(st.lists(st.lists(_HOPS, max_size=4).map(",".join), max_size=3))
@example(['fe80::1%x"'])
def test_the_address_is_always_plain(lines: list[str]) -> None:
    """An address in a trusted proxy's header is accepted only without a scope."""
    found = _EVERYBODY.find("192.0.2.1", _head(*lines))
    address = ip_address(found)
    assert str(address) == found
    assert not isinstance(address, IPv6Address) or address.scope_id is None


@given(st.lists(_ADDRESSES, min_size=1), st.data())
def test_empty_elements_are_skipped(hops: list[str], data: st.DataObject) -> None:
    """Empty elements of the list are skipped at any position."""
    padded = list(hops)
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(padded)))
        padded.insert(place, data.draw(st.text(" \t", max_size=2)))
    plain = _EVERYBODY.find("192.0.2.1", _head(",".join(hops)))
    assert _EVERYBODY.find("192.0.2.1", _head(",".join(padded))) == plain


def test_few_hops_are_read() -> None:
    """Of thousands of trusted hops, only the nearest ones are read."""
    hops = ["192.0.2.9", *["10.0.0.1"] * (MAX_HOPS - 1)]
    proxies = ClientAddress(["10.0.0.0/8"])
    assert proxies.find("10.0.0.2", _head(",".join(hops))) == "192.0.2.9"
    assert proxies.find("10.0.0.2", _head(",".join([*hops, "10.0.0.3"]))) == "10.0.0.1"


def test_the_scope_of_a_peer_is_removed() -> None:
    """Sockets report the scope of a link-local peer; records don't contain it."""
    assert without_scope("fe80::1%eth0") == "fe80::1"
    assert without_scope("192.0.2.1") == "192.0.2.1"
