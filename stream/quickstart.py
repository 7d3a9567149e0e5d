"""What a local run prints once it is ready: where everything is, and a first record to try."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from stream.sandbox.store import tables_file
from stream.settings import Settings

__all__ = ["announce", "quick_start"]

_TEMPLATE = """
  console  {api}/console/#token={quoted_token}
  API      {api}    reference: {api}/v1/documentation/
  source   {source}
  sandbox  {sandbox}    tables: {database}
  token    {token}

Create a source and a sink, and send a record:

  API={api} TOKEN={token}
  curl -s $API/v1/branches/default/sources -H "X-StorageApi-Token: $TOKEN" \\
    -H 'Prefer: wait=10' --json '{{"type":"http","name":"My Source"}}'
  curl -s $API/v1/branches/default/sources/my-source/sinks -H "X-StorageApi-Token: $TOKEN" \\
    -H 'Prefer: wait=10' --json '{{"type":"table","name":"My Sink","table":{{"type":"keboola",
         "tableId":"in.c-demo.events","mapping":{{"columns":[
         {{"type":"uuid","name":"id"}},{{"type":"datetime","name":"at"}},
         {{"type":"path","name":"user","path":"user.name","rawString":true}},
         {{"type":"body","name":"body"}}]}}}}}}'
  URL=$(curl -s $API/v1/branches/default/sources/my-source -H "X-StorageApi-Token: $TOKEN" \\
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["http"]["url"])')
  curl -s $URL --json '{{"user":{{"name":"Ada"}}}}'

A few seconds later the row is in the table:

  python3 -c 'import sqlite3; print(*sqlite3.connect("{database}").execute(
    "SELECT * FROM \\"in.c-demo.events\\""), sep="\\n")'
"""


def quick_start(settings: Settings) -> str:
    """The text for *settings*."""
    return _TEMPLATE.format(
        api=settings.api.public_url,
        source=settings.source.http.public_url,
        sandbox=f"http://{settings.sandbox.listen}",
        token=settings.sandbox.token,
        quoted_token=quote(settings.sandbox.token, safe=""),
        database=tables_file(Path(settings.sandbox.path), settings.sandbox.project_id),
    )


def announce(settings: Settings, components: Sequence[str]) -> None:
    """Print the quick start of a run that has everything, to a person at a terminal only."""
    # The runner has replaced stdout.
    output = sys.__stdout__
    is_whole = {"api", "http-source", "sandbox"} <= set(components)
    if is_whole and output is not None and output.isatty():
        print(quick_start(settings), file=output, flush=True)
