"""What the settings mean for the log."""

from __future__ import annotations

import attrs

from stream.components import log_of
from stream.settings import Settings


def test_operations_of_etcd_are_shown_on_request() -> None:
    """They are logged at a level that isn't shown otherwise."""
    assert "stream.etcd.transport" not in log_of(Settings()).levels()
    settings = attrs.evolve(Settings(), etcd=attrs.evolve(Settings().etcd, debug_log=True))
    assert log_of(settings).levels()["stream.etcd.transport"] == "debug"


def test_levels_that_were_asked_for_count_most() -> None:
    """They come after what other settings mean for the same part of the product."""
    log = attrs.evolve(Settings().log, access_log=False, levels=("stream.api.http=debug",))
    assert log_of(attrs.evolve(Settings(), log=log)).levels()["stream.api.http"] == "debug"
    quiet = attrs.evolve(Settings().log, access_log=False)
    assert log_of(attrs.evolve(Settings(), log=quiet)).levels()["stream.api.http"] == "warn"
