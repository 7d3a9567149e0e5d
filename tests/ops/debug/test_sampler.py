"""Stacks sampled for some time."""

from __future__ import annotations

import threading

from stream.ops.debug.sampler import Profile, sample


def _wait_here(event: threading.Event) -> None:
    event.wait(10)


def test_a_busy_function() -> None:
    """A thread that stays in a function is found there in each sample."""
    event = threading.Event()
    thread = threading.Thread(target=_wait_here, args=[event], name="at-work")
    thread.start()
    try:
        profile = sample(0.1)
    finally:
        event.set()
        thread.join()
    seen = sum(
        count
        for stack, count in profile.stacks.items()
        if stack[0] == "at-work" and any(f.startswith("_wait_here ") for f in stack)
    )
    assert profile.samples > 3
    assert seen == profile.samples


def test_shares_of_functions() -> None:
    """Functions are listed by their share of samples, with and without their callees."""
    profile = Profile()
    profile.samples = 4
    for _ in range(3):
        profile.add(("t", "outer", "inner"))
    profile.add(("t", "outer"))
    profile.add(("pool", "worker", "Condition.wait (threading.py:1)"))
    lines = profile.summary().splitlines()
    assert lines[1].split() == ["75.0%", "75.0%", "inner"]
    assert lines[2].split() == ["25.0%", "100.0%", "outer"]
    assert (
        profile.folded()
        == "pool;worker;Condition.wait (threading.py:1) 1\nt;outer 1\nt;outer;inner 3\n"
    )
