"""The build backend of pip and others: setuptools, and the pages for people in every wheel.

The pages (`tools.console`) are built with Node.js. If the machine has none, the one of PyPI is a
requirement of the build. A wheel without pages is made, with a warning, if npm's registry can't be
reached: the service works without them. An editable installation doesn't wait for pages.
"""

from __future__ import annotations

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from tools import console

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, str | list[str] | None]


def get_requires_for_build_wheel(config_settings: Settings | None = None) -> list[str]:
    """What a wheel needs to be built: Node.js as well, if it is needed and isn't here."""
    needed = build_meta.get_requires_for_build_wheel(config_settings)
    is_needed = console.SOURCES.is_dir() and not console.is_current() and not console.has_node()
    return [*needed, *([console.NODE] if is_needed else [])]


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the pages, then the wheel; its name."""
    if console.SOURCES.is_dir():
        console.ensure_built(quiet=False)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
