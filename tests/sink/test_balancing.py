"""The assignment of slices to source nodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.sink.balancing import slice_share

Sample = tuple[str, int]
"""Writer and number of a slice."""


def _writer(slice_: Sample) -> str:
    return slice_[0]


def _shares(slices: list[Sample], nodes: list[str], minimum: int = 2) -> dict[str, list[Sample]]:
    return {node: slice_share(slices, nodes, node, minimum, _writer) for node in nodes}


slice_lists = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), max_size=12).map(
    lambda writers: [(writer, index) for index, writer in enumerate(writers)]
)
node_lists = st.integers(1, 8).map(lambda count: [f"node-{index}" for index in range(count)])


@given(slice_lists, node_lists, st.integers(1, 6))
def test_every_slice_is_assigned(slices: list[Sample], nodes: list[str], minimum: int) -> None:
    """No slice is left out, no node has one twice, and each node has the minimum."""
    shares = _shares(slices, nodes, minimum)
    assert {slice_ for share in shares.values() for slice_ in share} == set(slices)
    for share in shares.values():
        assert len(set(share)) == len(share) >= min(minimum, len(slices))
        assert len(share) <= max(-(-len(slices) // len(nodes)), minimum) + minimum


@given(slice_lists, node_lists, st.integers(1, 6))
def test_a_node_uses_different_writers(
    slices: list[Sample], nodes: list[str], minimum: int
) -> None:
    """A node uses as many writers as the minimum of slices requires, if their locations
    are known.
    """
    writers = {writer for writer, _ in slices if writer}
    for share in _shares(slices, nodes, minimum).values():
        assert len({writer for writer, _ in share if writer}) >= min(minimum, len(writers))


@given(slice_lists, node_lists, st.sampled_from(["a", "b", "c", "d"]))
def test_the_loss_of_a_writer_leaves_each_node_a_slice(
    slices: list[Sample], nodes: list[str], lost: str
) -> None:
    """Without one writer every node still has a slice, if another writer has any."""
    alive = {writer for writer, _ in slices if writer} - {lost}
    if alive:
        for share in _shares(slices, nodes).values():
            assert any(writer in alive for writer, _ in share)


def test_two_nodes_on_two_writers_of_two_volumes() -> None:
    """The volumes of one writer are distributed to both nodes."""
    slices = [("a", 1), ("a", 2), ("b", 3), ("b", 4)]
    assert _shares(slices, ["n1", "n2"]) == {
        "n1": [("a", 1), ("b", 3)],
        "n2": [("a", 2), ("b", 4)],
    }


def test_an_unknown_node_gets_nothing() -> None:
    """A node that isn't in the group gets no slices."""
    assert slice_share([("a", 1)], ["n1"], "n2", 2, _writer) == []
