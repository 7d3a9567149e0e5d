"""Tasks as values."""

from __future__ import annotations

import pytest

from stream.api.resources.awaited_tasks import source_of
from stream.api.resources.views import Urls, task_view
from stream.api.spec.response_schemas import TASK
from stream.api.spec.schema import Object
from stream.definition.key import SourceKey
from stream.rejected.nodes import Asked
from stream.rejected.replay import Outcome
from stream.task.entity import LOCK_PREFIX, Task, finished
from stream.values.codec import decode, encode
from stream.values.utctime import from_timestamp


def test_every_output_is_described() -> None:
    """An output without a description would not be shown to the caller."""
    (described,) = (each.schema for each in TASK.members if each.name == "outputs")
    assert isinstance(described, Object)
    names = {each.name for each in described.members}
    outputs = dict.fromkeys(names, "x")
    task = Task(project_id=1, task_id="t", created_at=from_timestamp(1), outputs=outputs)
    assert task_view(task, Urls("", ""))["outputs"].keys() == names
    shown = Outcome(is_cut=True, masked={("a", "b")}, nodes=[Asked(node_id="n")]).view()
    assert shown.keys() <= names


def test_the_duration_of_a_task() -> None:
    """The duration is unknown without a creation time."""
    task = Task(project_id=1, task_id="t", created_at=from_timestamp(1))
    assert finished(task, from_timestamp(3), result="Done.").duration == 2_000_000_000
    assert finished(task, from_timestamp(0), result="Done.").duration == 0
    unknown = finished(Task(project_id=1, task_id="t"), from_timestamp(3), result="Done.")
    assert unknown.duration == 0 and decode(Task, encode(unknown)) == unknown


@pytest.mark.parametrize(
    ("lock", "source"),
    [
        (f"{LOCK_PREFIX}1/2/a", SourceKey(1, 2, "a")),
        (f"{LOCK_PREFIX}1/2/a/b", SourceKey(1, 2, "a")),
        (f"{LOCK_PREFIX}api.create.sink/1/2/a", None),
        (f"{LOCK_PREFIX}1", None),
        ("", None),
    ],
)
def test_the_object_of_a_task(lock: str, source: SourceKey | None) -> None:
    """Tasks of other services may have other locks or none."""
    assert source_of(Task(project_id=1, task_id="t", lock=lock)) == source
