"""What a local run prints once it is ready: where everything is, and a first record to try."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from stream.local_postgres import DATABASE, USER, find_postgres, password_file
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

_POSTGRES_TEMPLATE = """
  console  {api}/console/
  API      {api}    reference: {api}/v1/documentation/
  source   {source}
  tables   PostgreSQL at {postgres}

Make a token, create a source and a sink, and send a record:

  API={api}
  TOKEN=$({command} token create --project 1 --name me --can admin \\
    {etcd})
  curl -s $API/v1/branches/default/sources -H "Authorization: Bearer $TOKEN" \\
    -H 'Prefer: wait=10' --json '{{"type":"http","name":"My Source"}}'
  curl -s $API/v1/branches/default/sources/my-source/sinks -H "Authorization: Bearer $TOKEN" \\
    -H 'Prefer: wait=10' --json '{{"type":"table","name":"My Sink","table":{{"type":"postgres",
         "connection":"warehouse","table":"events","mapping":{{"columns":[
         {{"type":"uuid","name":"id","dataType":"uuid","primaryKey":true}},
         {{"type":"datetime","name":"at","dataType":"timestamp"}},
         {{"type":"path","name":"user","path":"user.name","rawString":true}},
         {{"type":"body","name":"body","dataType":"json"}}]}}}}}}'
  URL=$(curl -s $API/v1/branches/default/sources/my-source -H "Authorization: Bearer $TOKEN" \\
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["http"]["url"])')
  curl -s $URL --json '{{"user":{{"name":"Ada"}}}}'

A few seconds later the row is in the table:

  PGPASSWORD=$(cat {password}) {psql} postgresql://{user}@{postgres}/{database} \\
    -c 'SELECT * FROM events'
"""


def quick_start(settings: Settings, components: Sequence[str] = ()) -> str:
    """The text for *settings*, of a run of *components*."""
    if "postgres" in components:
        return _of_postgres(settings)
    return _TEMPLATE.format(
        api=settings.api.public_url,
        source=settings.source.http.public_url,
        sandbox=f"http://{settings.sandbox.listen}",
        token=settings.sandbox.token,
        quoted_token=quote(settings.sandbox.token, safe=""),
        database=tables_file(Path(settings.sandbox.path), settings.sandbox.project_id),
    )


def _of_postgres(settings: Settings) -> str:
    local = settings.local_postgres
    programs = find_postgres()
    is_on_path = programs is None or shutil.which("psql") is not None
    return _POSTGRES_TEMPLATE.format(
        api=settings.api.public_url,
        source=settings.source.http.public_url,
        postgres=local.listen,
        command=_own_command(),
        etcd=f"--etcd-endpoint={settings.etcd.endpoint} --etcd-namespace={settings.etcd.namespace}",
        password=password_file(Path(local.path)),
        psql="psql" if is_on_path else f"{programs}/psql",
        user=USER,
        database=DATABASE,
    )


def _own_command() -> str:
    """How to call the service again, from the directory that it was started in."""
    script = Path(sys.executable).with_name("stream-service")
    if not script.exists():
        return f"{sys.executable} -m stream"
    here = Path.cwd()
    return str(script.relative_to(here) if here in script.parents else script)


def announce(settings: Settings, components: Sequence[str]) -> None:
    """Print the quick start of a run that has everything, to a person at a terminal only."""
    # The runner has replaced stdout.
    output = sys.__stdout__
    is_whole = {"api", "http-source"} <= set(components)
    is_whole &= bool({"postgres", "sandbox"} & set(components))
    if is_whole and output is not None and output.isatty():
        print(quick_start(settings, components), file=output, flush=True)
