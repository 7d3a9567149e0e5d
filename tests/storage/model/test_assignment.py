"""The assignment of volumes to the slices of a file."""

from __future__ import annotations

from collections import Counter
from random import Random

import attrs
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.model.assignment import (
    assign_volumes,
    has_better_volumes,
    has_other_volumes,
)
from stream.storage.model.entity import Assignment, AssignmentConfig
from stream.storage.model.volume import Volume

TYPES = ("ssd", "hdd", "nvme")


@st.composite
def _volumes(draw: st.DrawFn) -> list[Volume]:
    return [
        Volume(
            f"vol-{index}",
            f"node-{draw(st.integers(0, 3))}",
            "localhost:1",
            "path",
            draw(st.sampled_from(TYPES)),
            f"{index}",
            draw(st.booleans()),
        )
        for index in range(draw(st.integers(0, 10)))
    ]


_configs = st.builds(
    AssignmentConfig,
    count=st.integers(1, 10),
    preferred_types=st.lists(st.sampled_from([*TYPES, "tape"]), max_size=4).map(tuple),
)
_seeds = st.integers(0, 2**63)


@given(_volumes(), _configs, _seeds, st.randoms())
def test_equal_volumes_have_an_equal_assignment(
    volumes: list[Volume], config: AssignmentConfig, seed: int, shuffler: Random
) -> None:
    """The order of equal volumes has no effect."""
    expected = assign_volumes(volumes, config, seed)
    shuffled = list(volumes)
    shuffler.shuffle(shuffled)
    assert assign_volumes(shuffled, config, seed) == expected


@given(_volumes(), _configs, _seeds)
def test_the_number_of_assigned_volumes(
    volumes: list[Volume], config: AssignmentConfig, seed: int
) -> None:
    """The wanted number is assigned if available, none twice, and no drained volume."""
    taken = assign_volumes(volumes, config, seed)
    usable = {volume.volume_id for volume in volumes if not volume.drained}
    assert len(taken) == len(set(taken)) == min(config.count, len(usable))
    assert set(taken) <= usable


@given(_volumes(), _configs, _seeds)
def test_volumes_of_a_preferred_type_come_first(
    volumes: list[Volume], config: AssignmentConfig, seed: int
) -> None:
    """A volume is assigned only if none of a preferred type is left."""
    by_id = {volume.volume_id: volume for volume in volumes}
    order = list(dict.fromkeys(config.preferred_types))

    def rank(volume: Volume) -> int:
        return order.index(volume.type) if volume.type in order else len(order)

    taken = [by_id[volume_id] for volume_id in assign_volumes(volumes, config, seed)]
    ranks = [rank(volume) for volume in taken]
    assert ranks == sorted(ranks)
    left = [rank(v) for v in volumes if not v.drained and v not in taken]
    if taken and left:
        assert max(ranks) <= min(left)


@given(_volumes(), st.integers(1, 10), _seeds)
def test_volumes_are_distributed_over_the_nodes(
    volumes: list[Volume], count: int, seed: int
) -> None:
    """A node has at most one volume more than another node with unassigned volumes."""
    taken = assign_volumes(volumes, AssignmentConfig(count, ()), seed)
    usable = [volume for volume in volumes if not volume.drained]
    given_by = Counter(volume.node_id for volume in usable if volume.volume_id in taken)
    left = {volume.node_id for volume in usable if volume.volume_id not in taken}
    for node in left:
        assert max(given_by.values()) - given_by[node] <= 1


def test_different_sinks() -> None:
    """Files that are opened at different times use different volumes."""
    volumes = [
        Volume(f"vol-{index}", f"node-{index}", "localhost:1", "path", "hdd", f"{index}")
        for index in range(4)
    ]
    config = AssignmentConfig(1, ("hdd",))
    used = Counter(assign_volumes(volumes, config, seed)[0] for seed in range(400))
    assert set(used) == {volume.volume_id for volume in volumes}
    assert min(used.values()) > 50


def test_all_volumes_are_drained() -> None:
    """Without an available volume none is assigned."""
    volume = Volume("vol", "node", "localhost:1", "path", "hdd", "1", drained=True)
    config = AssignmentConfig(1, ("hdd",))
    assert assign_volumes([volume], config, 1) == ()
    assert assign_volumes([attrs.evolve(volume, drained=False)], config, 1) == ("vol",)


def _assigned(count: int, *volumes: str) -> Assignment:
    return Assignment(AssignmentConfig(count, ("hdd",)), volumes)


def test_a_file_without_available_volumes() -> None:
    """It is replaced only if others are available."""
    assert has_other_volumes(_assigned(1, "a"), {"b"})
    assert has_other_volumes(_assigned(2, "a", "b"), {"c"})
    assert not has_other_volumes(_assigned(2, "a", "b"), {"b", "c"})
    assert not has_other_volumes(_assigned(1, "a"), set())


def test_a_file_with_too_few_volumes() -> None:
    """It is replaced if a volume appears that it doesn't have, and not because of others."""
    assert has_better_volumes(_assigned(2, "a"), {"a", "b"}, {"b"})
    assert has_better_volumes(_assigned(2, "a", "c"), {"a", "b"}, {"b"})
    assert not has_better_volumes(_assigned(2, "a"), {"a", "b"}, set())
    assert not has_better_volumes(_assigned(2, "a", "b"), {"a", "b"}, {"b"})
    assert not has_better_volumes(_assigned(1, "a"), {"a", "b"}, {"b"})
    assert not has_better_volumes(_assigned(2, "a", "b"), {"a", "b", "c"}, {"c"})
    assert not has_better_volumes(_assigned(2, "a"), {"b"}, {"b"})
