from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.authority.rights import BOOTSTRAP, RIGHTS, Right, includes, read_rights
from stream.errors import UserError

ALLOWED: dict[Right, set[Right]] = {
    "read": {"read"},
    "write": {"read", "write"},
    "tail": {"tail"},
    "admin": {"read", "write", "tail", "admin"},
    "bootstrap": {"admin"},
}


@given(st.sets(st.sampled_from([*RIGHTS, BOOTSTRAP])), st.sampled_from(RIGHTS))
def test_what_rights_include(rights: set[Right], needed: Right) -> None:
    """A token may do what its rights include; a token without rights may do nothing."""
    assert includes(rights, needed) == any(needed in ALLOWED[right] for right in rights)


def test_the_right_of_the_bootstrap_token() -> None:
    """Only the bootstrap token has this right, and no token can be created with it."""
    assert BOOTSTRAP not in RIGHTS
    assert not any(includes([right], BOOTSTRAP) for right in (*RIGHTS, BOOTSTRAP))


def test_rights_by_name() -> None:
    """Each name is listed once, in a fixed order, with or without the prefix."""
    assert read_rights(["sources:write", " read", "write"]) == ("read", "write")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "a token needs at least one of the rights read, write, tail, admin"),
        (["reed"], 'unknown right "reed", expected one of read, write, tail, admin'),
        (["bootstrap"], 'unknown right "bootstrap", expected one of read, write, tail, admin'),
    ],
)
def test_unknown_rights(names: list[str], message: str) -> None:
    """The message lists the existing rights."""
    with pytest.raises(UserError) as caught:
        read_rights(names)
    assert str(caught.value) == message
