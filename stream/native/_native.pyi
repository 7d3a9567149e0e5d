"""Types of the module that is built from ``native/``; its documentation is there."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

class _Lane(Protocol):
    @property
    def targets(self) -> Sequence[tuple[RowPlan, int, int]]: ...
    @property
    def head(self) -> object: ...
    @property
    def length(self) -> int: ...
    @property
    def max_records(self) -> int: ...
    @property
    def headers(self) -> bytes: ...
    def begin(
        self, count: int, at: int, size: int, waiting: Waiting, /
    ) -> tuple[object, float]: ...
    def write(self, rows: Sequence[bytes], count: int, at: int, completion: Any, /) -> None: ...

def count_rows(data: bytes, inside: bool, strict: bool, /) -> tuple[int, int, bool, bool]: ...

@final
class Body:
    def __new__(cls, length: int, data: bytes, /) -> Body: ...
    def __len__(self) -> int: ...
    def feed(self, data: bytes, /) -> None: ...
    def receive(self, descriptor: int, limit: int, /) -> int: ...
    def take(self) -> bytes: ...

@final
class RowPlan:
    has_headers: bool
    has_ip: bool
    reads_json: bool

    def __new__(
        cls,
        columns: Sequence[
            tuple[
                str,
                Sequence[tuple[bytes, int | None]],
                bool,
                bytes | None,
                Sequence[
                    tuple[bytes | None, Sequence[tuple[bytes, int | None]] | None, bytes | None]
                ],
                tuple[str, int, int, bool, bool, bool] | None,
            ]
        ],
        limit: int,
    ) -> RowPlan: ...
    def row(self, body: bytes, at: int, ip: bytes, headers: bytes, /) -> bytes | None: ...
    def rows(
        self, bodies: list[bytes], at: int, ip: bytes, headers: bytes, /
    ) -> list[bytes | None]: ...
    def lines(
        self,
        body: bytes,
        at: int,
        ip: bytes,
        headers: bytes,
        max_records: int,
        max_ends: int,
        max_bytes: int,
        /,
    ) -> tuple[bytes, int, int] | None: ...

@final
class LogExport:
    @staticmethod
    def read(body: bytes, /) -> LogExport | None: ...
    def __len__(self) -> int: ...
    def print(
        self,
        plans: Sequence[RowPlan | None],
        at: int,
        ip: bytes,
        headers: bytes,
        wants_bodies: bool,
        max_records: int,
        max_bytes: int,
        /,
    ) -> tuple[int, int, list[bytes | None] | None, list[bytes] | None] | None: ...

@final
class Waiting:
    def connections(self) -> list[Any]: ...
    def counts(self) -> list[int]: ...
    def __len__(self) -> int: ...

class _Between(Protocol):
    def run_calls(self) -> None: ...
    def run_checks(self) -> None: ...

@final
class Connections:
    def __new__(
        cls,
        lane_of: Callable[[bytes], _Lane | None],
        shares: tuple[float, float, float, float, float, float, float],
    ) -> Connections: ...
    def add(self, descriptor: int, connection: object, ip: str) -> None: ...
    def remove(self, descriptor: int) -> None: ...
    def arm(self, descriptor: int) -> None: ...
    def disarm(self, descriptor: int) -> None: ...
    def disarm_all(self) -> None: ...
    def serve(
        self, events: list[tuple[int, int]], now: float, between: _Between
    ) -> list[tuple[int, int]]: ...
    def answer(
        self,
        waiting: Waiting,
        completion: object,
        answers: Sequence[tuple[int, bytes, bytes]],
        now: float,
        /,
    ) -> None: ...

@final
class DiskThread:
    def __new__(cls, wake: int, /) -> DiskThread: ...
    def start(self, files: list[tuple[int, int, list[bytes], bool]], /) -> None: ...
    def take(self) -> list[tuple[int, int, int, float]] | None: ...
