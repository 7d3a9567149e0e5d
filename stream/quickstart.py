"""The quick start that a local run prints when it is ready: its addresses and a first record."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from stream.local_postgres import DATABASE, USER, find_postgres, password_file
from stream.settings import Settings
from stream.settings.connections import Connection

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

_OWN_TEMPLATE = """
  console  {api}/console/
  API      {api}    reference: {api}/v1/documentation/
  source   {source}
  tables   {tables}

Make a token, create a source and a sink, and send a record:

  API={api}
  TOKEN=$({command} token create --project 1 --name me --can admin \\
    {etcd})
  curl -s $API/v1/branches/default/sources -H "Authorization: Bearer $TOKEN" \\
    -H 'Prefer: wait=10' --json '{{"type":"http","name":"My Source"}}'
  curl -s $API/v1/branches/default/sources/my-source/sinks -H "Authorization: Bearer $TOKEN" \\
    -H 'Prefer: wait=10' --json '{{"type":"table","name":"My Sink","table":{{{place},
         "mapping":{{"columns":[
         {{"type":"uuid","name":"id","dataType":"uuid"{key}}},
         {{"type":"datetime","name":"at","dataType":"timestamp"}},
         {{"type":"path","name":"user","path":"user.name","rawString":true}},
         {{"type":"body","name":"body","dataType":"json"}}]}}}}}}'
  URL=$(curl -s $API/v1/branches/default/sources/my-source -H "Authorization: Bearer $TOKEN" \\
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["http"]["url"])')
  curl -s $URL --json '{{"user":{{"name":"Ada"}}}}'

A few seconds later the row is in the table:

  {query}
"""

_ICEBERG_QUERY = """{python} -c 'from pyiceberg.catalog import load_catalog; print(load_catalog(
    "lake", type="sql", uri="{uri}",
    warehouse="{warehouse}").load_table("shop.events").scan().to_arrow())'"""

_PARQUET_QUERY = """{python} -c 'from pyarrow.dataset import dataset; print(dataset(
    "{folder}/shop/events", partitioning="hive").to_table())'"""


def quick_start(settings: Settings, components: Sequence[str] = ()) -> str:
    """Return the text for a run of *components* with *settings*."""
    if "postgres" in components:
        return _of_postgres(settings)
    if _lake(settings) is not None and "sandbox" not in components:
        return _of_lake(settings)
    # Imported here, because most processes have no sandbox.
    from stream.sandbox.store import tables_file

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
    psql = "psql" if is_on_path else f"{programs}/psql"
    return _own(
        settings,
        tables=f"PostgreSQL at {local.listen}",
        place='"type":"postgres","connection":"warehouse","table":"events"',
        key=',"primaryKey":true',
        query=f"PGPASSWORD=$(cat {password_file(Path(local.path))}) {psql} "
        f"postgresql://{USER}@{local.listen}/{DATABASE} \\\n    -c 'SELECT * FROM events'",
    )


def _lake(settings: Settings) -> Connection | None:
    """Return the connection of a development service whose tables are in a lake."""
    found = settings.target.connections.by_name.get("lake")
    return found if found is not None and found.type in ("iceberg", "parquet") else None


def _of_lake(settings: Settings) -> str:
    lake = _lake(settings)
    assert lake is not None
    python, days = _relative(Path(sys.executable)), '"partitionBy":["day(at)"]'
    if lake.type == "iceberg":
        catalog = lake.options["catalog"]
        return _own(
            settings,
            tables=f"Iceberg: catalog {catalog['uri']}, files in {catalog['warehouse']}",
            place='"type":"iceberg","connection":"lake","namespace":"shop","table":"events",'
            f"\n         {days}",
            query=_ICEBERG_QUERY.format(python=python, **catalog),
        )
    folder = _relative(Path(unquote(urlsplit(lake.options["url"]).path)))
    return _own(
        settings,
        tables=f"Parquet files in {folder}",
        place=f'"type":"parquet","connection":"lake","path":"shop/events",{days}',
        query=_PARQUET_QUERY.format(python=python, folder=folder),
    )


def _own(settings: Settings, *, tables: str, place: str, query: str, key: str = "") -> str:
    return _OWN_TEMPLATE.format(
        api=settings.api.public_url,
        source=settings.source.http.public_url,
        tables=tables,
        command=_own_command(),
        etcd=f"--etcd-endpoint={settings.etcd.endpoint} --etcd-namespace={settings.etcd.namespace}",
        place=place,
        key=key,
        query=query,
    )


def _own_command() -> str:
    """Return the command of this service, relative to its working directory."""
    script = Path(sys.executable).with_name("stream-service")
    if not script.exists():
        return f"{sys.executable} -m stream"
    return _relative(script)


def _relative(path: Path) -> str:
    """Return a path relative to the service's working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if here in path.parents else path)


def announce(settings: Settings, components: Sequence[str]) -> None:
    """Print the quick start of a complete run, but only on a terminal."""
    # The runner has replaced ``sys.stdout``.
    output = sys.__stdout__
    is_whole = {"api", "http-source"} <= set(components)
    has_lake = "etcd" in components and _lake(settings) is not None
    is_whole &= has_lake or bool({"postgres", "sandbox"} & set(components))
    if is_whole and output is not None and output.isatty():
        print(quick_start(settings, components), file=output, flush=True)
