from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.api.conftest import SINK, SOURCE, Api

ensure = pytest_twisted.ensureDeferred
LEVEL = "storage.level."
INTERVAL = f"{LEVEL}staging.upload.trigger.interval"
SIZE = f"{LEVEL}staging.upload.trigger.size"
PROTECTED = f"{LEVEL}local.encoding.compression.gzip.blockSize"


def patch(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"settings": [{"key": key, "value": value} for key, value in pairs]}


async def setting(api: Api, path: str, key: str) -> Any:
    settings = (await api.get(f"{path}/settings"))["settings"]
    return next(item for item in settings if item["key"] == key)


@ensure
async def test_all_settings_are_listed(api: Api) -> None:
    """Every setting is listed, sorted by key, with who may change it."""
    await api.create_source()
    settings = (await api.get(f"{SOURCE}/settings"))["settings"]
    keys = [item["key"] for item in settings]
    assert keys == sorted(keys)
    assert len(keys) == 27
    assert await setting(api, SOURCE, INTERVAL) == {
        "key": INTERVAL,
        "type": "string",
        "description": "Duration from the last slice upload to trigger the next upload.",
        "value": "30s",
        "defaultValue": "30s",
        "overwritten": False,
        "protected": False,
        "validation": "required,minDuration=1s,maxDuration=30m",
    }


@ensure
async def test_settings_are_merged(api: Api) -> None:
    """A patch keeps earlier settings, `null` restores the default, and a source's settings aren't
    its sinks'.
    """
    await api.create_source()
    await api.create_sink()
    task = await api.run("PATCH", f"{SOURCE}/settings", patch((INTERVAL, "45s")))
    assert task["result"] == "Source settings have been updated successfully."
    assert task["type"] == "api.update.sourceSettings"
    await api.run("PATCH", f"{SOURCE}/settings", patch((SIZE, "12MB")))
    item = await setting(api, SOURCE, INTERVAL)
    assert (item["value"], item["defaultValue"], item["overwritten"]) == ("45s", "30s", True)
    assert not (await setting(api, SINK, INTERVAL))["overwritten"]
    await api.run("PATCH", f"{SOURCE}/settings", patch((INTERVAL, None)))
    assert not (await setting(api, SOURCE, INTERVAL))["overwritten"]
    assert (await setting(api, SOURCE, SIZE))["value"] == "12MB"
    version = (await api.get(SOURCE))["version"]
    assert (version["number"], version["description"]) == (4, "Updated settings.")


@ensure
async def test_a_sinks_settings_rotate_its_file(api: Api) -> None:
    """Settings of a sink take effect at once, by a rotation of its file."""
    await api.create_source()
    await api.create_sink()
    task = await api.run(
        "PATCH", f"{SINK}/settings", patch((SIZE, "12MB")) | {"changeDescription": "Bigger."}
    )
    assert task["result"] == "Sink settings have been updated successfully."
    assert (await api.get(SINK))["version"]["description"] == "Bigger."
    files = (await api.get(f"{SINK}/statistics/files"))["files"]
    assert [file["state"] for file in files] == ["closing", "writing"]
    await api.run("PATCH", f"{SINK}/settings", {})
    assert (await api.get(SINK))["version"]["number"] == 3


@ensure
async def test_refused_patches(api: Api) -> None:
    """All invalid values are reported; protected keys are forbidden."""
    await api.create_source()
    reply = await api.call("PATCH", f"{SOURCE}/settings", patch((INTERVAL, "foo"), (SIZE, "bar")))
    assert (reply.status, reply.json["error"], reply.json["message"]) == (
        400,
        "stream.api.badRequest",
        f'- Invalid "{SIZE}" value "bar": invalid syntax.\n'
        f'- Invalid "{INTERVAL}": time: invalid duration "foo".',
    )
    reply = await api.call("PATCH", f"{SOURCE}/settings", patch((PROTECTED, "1MB")))
    assert (reply.status, reply.json["error"], reply.json["message"]) == (
        403,
        "stream.api.forbidden",
        f'Cannot modify protected keys: "{PROTECTED}".',
    )
    reply = await api.call("PATCH", f"{SOURCE}/settings", patch(("foo.bar", 1)))
    assert reply.json["message"] == 'Key not found: "foo.bar".'
    reply = await api.call("PATCH", f"{SOURCE}/settings", {"settings": [{}]})
    assert reply.json["message"] == '"key" is missing from body.settings[0]'
