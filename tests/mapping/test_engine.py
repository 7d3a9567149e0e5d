"""Templates in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from stream.errors import UserError
from stream.mapping import engine, engine_process
from stream.mapping.engine import Engine, EngineError, Program


@attrs.define
class World:
    """:ivar calls: calls of the native function ``get``, which returns what `values` has."""

    now: float = 1000.0
    values: dict[str, Any] = attrs.Factory(dict)
    calls: list[str] = attrs.Factory(list)
    engine: Engine = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.engine = Engine(lambda: self.now)

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        assert name == "get"
        self.calls.append(arguments[0])
        if arguments[0] not in self.values:
            raise UserError(f"no {arguments[0]}")
        return self.values[arguments[0]]

    def run(self, program: Program) -> str:
        return self.engine.evaluate(program, self.call)


def _program(content: str) -> Program:
    return Program("local get(x) = std.native('get')(x);", content, {"get": ("x",)})


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.engine.close()


def test_one_program_for_many_records(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record has its own result, also beyond the end of the loop in the process."""
    program, other = _program("get('a') + 1 // end"), _program("{a: get('a')}")
    for number in range(engine_process.RECORDS_PER_LOOP + 5):
        world.values["a"] = number
        assert world.run(program) == str(number + 1)
        if number % 100 == 0:
            assert world.run(other) == f'{{"a":{number}}}'


def test_more_programs_than_are_kept(world: World) -> None:
    """Those that had to give way are read again."""
    programs = [_program(f"{n} + get('a')") for n in range(engine_process.MAX_TEMPLATES + 3)]
    world.values["a"] = 1
    for _ in range(2):
        assert [world.run(program) for program in programs] == [
            str(n + 1) for n in range(len(programs))
        ]


def test_known_calls_are_answered_for_each_record(world: World) -> None:
    """A value is never one of an earlier record; large and failing ones are asked for."""
    program = _program("if get('a') == 0 then get('b') else 'none'")
    world.values = {"a": 0, "b": "x" * (engine.MAX_KNOWN_BYTES + 1)}
    for _ in range(3):
        assert len(world.run(program)) > engine.MAX_KNOWN_BYTES
    world.values = {"a": 0, "b": "small"}
    assert world.run(program) == '"small"'
    world.values = {"a": 1}
    assert world.run(program) == '"none"'
    world.values = {"a": 0}
    with pytest.raises(UserError, match=r"^no b$"):
        world.run(program)
    world.values = {"a": 0, "b": 2}
    assert world.run(program) == "2"


def test_calls_that_differ_each_time_are_not_collected(world: World) -> None:
    """Neither many nor large ones."""
    program = _program("get(get('k'))")
    for number in range(50):
        world.values = {"k": f"k{number}", f"k{number}": number}
        assert world.run(program) == str(number)
    assert len(program.calls) == engine.MAX_KNOWN_CALLS


def test_failures_do_not_spoil_the_next_record(world: World) -> None:
    """Whether the template fails, or a function that it calls."""
    program = _program("if get('a') == 1 then error 'one' else get('a')")
    for value, expected in [(1, "one"), (2, ""), (1, "one"), (3, "")]:
        world.values["a"] = value
        if expected:
            with pytest.raises(EngineError, match=expected):
                world.run(program)
        else:
            assert world.run(program) == str(value)


def test_a_fault_of_ours_is_not_the_template_s(world: World) -> None:
    """An unexpected exception of a native function comes out as it is."""

    def broken(name: str, arguments: Sequence[Any]) -> Any:
        raise ZeroDivisionError

    program = _program("get('a')")
    with pytest.raises(ZeroDivisionError):
        world.engine.evaluate(program, broken)
    world.values["a"] = 1
    assert world.run(program) == "1"


@pytest.mark.parametrize(
    "content",
    [
        "local a = [a]; a",
        "std.parseYaml(std.repeat('- ', 100000))",
        "std.repeat('x', 1e12)",
    ],
)
def test_a_crash_hits_the_template_alone(world: World, content: str) -> None:
    """It isn't run again for a while, and longer each time; others don't notice."""
    bad, good = _program(content), _program("get('a')")
    world.values["a"] = 1
    assert world.run(good) == "1"
    fault = "the template needs more memory or a deeper stack than it may have"
    for pause in (engine.PAUSE_SECONDS, 2 * engine.PAUSE_SECONDS):
        with pytest.raises(UserError, match=f"^{fault}$") as caught:
            world.run(bad)
        assert caught.value.status == 400
        assert world.run(good) == "1"
        world.now += pause - 1
        with pytest.raises(UserError, match=f"^{fault}, it is not run for a while$"):
            world.run(bad)
        world.now += 2


def test_a_template_that_never_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed after its time."""
    monkeypatch.setattr(engine, "EVALUATION_SECONDS", 0.3)
    with pytest.raises(UserError, match=r"^the template takes longer than 0\.3 s$"):
        world.run(_program("local f(n) = if n == 0 then 0 else f(n - 1) + f(n - 1); f(100)"))
    assert world.run(_program("1 + 1")) == "2"


def test_a_result_that_is_too_large(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't read."""
    monkeypatch.setattr(engine, "MAX_RESULT_BYTES", 1000)
    with pytest.raises(UserError, match="result is too large"):
        world.run(_program("std.repeat('x', 1000)"))


def test_the_process_sees_nothing_of_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment, no files of ours, and it ends when we do."""
    monkeypatch.setenv("STREAM_ETCD_PASSWORD", "secret")
    world.run(_program("1"))
    child = world.engine._child
    assert child is not None
    proc = Path(f"/proc/{child._process.pid}")
    assert b"STREAM" not in (proc / "environ").read_bytes()
    assert len(list((proc / "fd").iterdir())) <= 5
    child._socket.close()
    child._process.wait(10)


def test_a_template_can_not_speak_for_the_loop(world: World) -> None:
    """Functions that aren't for it have names it can't know."""
    with pytest.raises(EngineError, match="only functions can be called"):
        world.run(_program("std.native('emit')('x')"))


def test_text_that_is_no_unicode(world: World) -> None:
    """Lone surrogates pass as replacement characters."""
    world.values["a"] = "x\ud83d"
    assert world.run(_program("get('a')")).startswith('"x')
