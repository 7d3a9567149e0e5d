"""Command lines of worker processes."""

from __future__ import annotations

import pytest

from stream.plugin import Options


def _workers(monkeypatch: pytest.MonkeyPatch, *argv: str) -> dict[str, list[str]]:
    monkeypatch.setenv("STREAM_ETCD_ENDPOINT", "127.0.0.1:2379")
    options = Options()
    options.parseOptions(["http-source", "--node-id=n", *argv])
    return {name: list(command) for name, command in options.workers.items()}


def _of_child(command: list[str]) -> Options:
    """Return the child's result for its command line."""
    options = Options()
    options.parseOptions(command[command.index("stream") + 1 :])
    return options


def test_workers_have_separate_names_and_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other settings are the parent's, and a worker has no workers."""
    own = ["--workers=2", "--metrics-listen=[::1]:9000", "--source-http-trusted-proxies=::1,::2"]
    commands = _workers(monkeypatch, *own)
    assert list(commands) == ["n-w1", "n-w2"]
    for number, (name, command) in enumerate(commands.items(), start=1):
        child = _of_child(command)
        assert child.is_worker
        assert child.components == ("http-source",)
        assert child.settings.node_id == name
        assert child.settings.metrics.listen == f"[::1]:{9000 + number}"
        assert child.settings.manhole.listen == f"127.0.0.1:{4022 + number}"
        assert child.settings.source.http.trusted_proxies == ("::1", "::2")
        assert child.settings.source.http.share_port
        assert child.settings.source.http.workers == 1


def test_any_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a node with any free port has any free port too."""
    commands = _workers(monkeypatch, "--workers=2", "--metrics-listen=127.0.0.1:0")
    listens = {_of_child(command).settings.metrics.listen for command in commands.values()}
    assert listens == {"127.0.0.1:0"}


@pytest.mark.parametrize("number", ["0", "65", "x"])
def test_limits_of_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    """The error names the setting."""
    with pytest.raises(SystemExit):
        _workers(monkeypatch, f"--workers={number}")
    assert "source.http.workers" in capsys.readouterr().err
