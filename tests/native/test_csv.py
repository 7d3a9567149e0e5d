"""The compiled counter of rows agrees with the Python code."""

from __future__ import annotations

from random import Random
from unittest import mock

import pytest

from stream import native
from stream.storage.volumes.recovery import RowCounter
from tests.effort import examples

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")


@pytest.mark.parametrize("strict", [False, True])
def test_random_input(strict: bool) -> None:
    """Quotes, line feeds and zero bytes are counted alike, in input split at any position."""
    for seed in range(examples(3000)):
        random = Random(seed)
        compiled, python = RowCounter(strict=strict), RowCounter(strict=strict)
        for _ in range(random.randrange(1, 5)):
            letters = b'ab,"\n"\n"' + (b"\0" if random.random() < 0.2 else b"")
            data = bytes(random.choices(letters, k=random.randrange(30)))
            last = compiled.feed(data)
            with mock.patch.object(native, "is_built", False):
                assert python.feed(data) == last, seed
            assert (compiled.rows, compiled.is_broken) == (python.rows, python.is_broken), seed
