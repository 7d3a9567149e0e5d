"""The choice of volumes for the slices of a new file. Pure and deterministic.

Note [Better volumes]: a file keeps its volumes. If all of them are unavailable, its sink accepts no
records. If it was opened while a writer restarted, it has fewer volumes than it should have, and
its sink would accept no records when the next writer restarts. Such a file is replaced soon by a
new one, which gets the volumes that are available then.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

import xxhash

from stream.storage.model.entity import Assignment, AssignmentConfig
from stream.storage.model.volume import Volume

__all__ = ["assign_volumes", "has_better_volumes", "has_other_volumes"]


def assign_volumes(
    volumes: Sequence[Volume], config: AssignmentConfig, seed: int
) -> tuple[str, ...]:
    """Return the IDs of at most ``config.count`` volumes on different nodes, preferred types first.

    Each round takes one volume of the current type from each node. When a round finds none, the
    next preferred type is used, and finally any type. Drained volumes are skipped.

    :param seed: the file's opening time in nanoseconds. It makes different sinks use different
        volumes.
    """
    generator = random.Random(seed)
    by_node: dict[str, list[Volume]] = {}
    available = sorted((v for v in volumes if not v.drained), key=lambda v: v.volume_id)
    generator.shuffle(available)
    for volume in available:
        by_node.setdefault(volume.node_id, []).append(volume)
    for candidates in by_node.values():
        candidates.sort(key=lambda volume: _rank(volume, config.preferred_types, seed))
    nodes = sorted(by_node)
    generator.shuffle(nodes)
    taken: list[str] = []
    for wanted in (*config.preferred_types, None):
        while len(taken) < config.count:
            before = len(taken)
            for node in nodes:
                candidates = by_node[node]
                fits = candidates and (wanted is None or candidates[0].type == wanted)
                if fits and len(taken) < config.count:
                    taken.append(candidates.pop(0).volume_id)
            if len(taken) == before:
                break
    return tuple(taken)


def has_other_volumes(assigned: Assignment, available: Set[str]) -> bool:
    """Return whether only volumes that the file doesn't have are *available*."""
    return bool(available) and available.isdisjoint(assigned.volumes)


def has_better_volumes(assigned: Assignment, available: Set[str], appeared: Set[str]) -> bool:
    """Return whether volumes have *appeared* that a file with too few of them doesn't have.

    A volume that was available before isn't a reason, because the new file may not get it either.
    A file without any available volume is the case of `has_other_volumes`.

    :param appeared: volumes that are available now, but weren't before.
    """
    has = len(available & set(assigned.volumes))
    return 0 < has < assigned.config.count and not appeared <= set(assigned.volumes)


def _rank(volume: Volume, preferred: Sequence[str], seed: int) -> tuple[int, int]:
    position = preferred.index(volume.type) if volume.type in preferred else len(preferred)
    return position, xxhash.xxh64_intdigest(f"{seed}{volume.type}{volume.label}".encode())
