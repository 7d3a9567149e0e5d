"""The build backend of pip and others: setuptools, with the web pages and the compiled code.

The pages (`tools.console`) are built with Node.js. If the machine has none, the package of PyPI is
a requirement of the build. If npm's registry can't be reached, a wheel without pages is built with
a warning: the service works without them. An editable installation doesn't wait for pages.

The compiled code (`tools.compiled`) is added to the wheel if cargo is installed; such a wheel is
for the machine's platform, any other one for all.
"""

from __future__ import annotations

import sysconfig

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from tools import compiled, console

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
    """Return the requirements for building a wheel: Node.js as well, if it is missing."""
    needed = build_meta.get_requires_for_build_wheel(config_settings)
    is_needed = console.SOURCES.is_dir() and not console.is_current() and not console.has_node()
    return [*needed, *([console.NODE] if is_needed else [])]


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the pages, then the wheel; return its name."""
    if console.SOURCES.is_dir():
        console.ensure_built(quiet=False)
    if compiled.SOURCES.is_dir() and compiled.ensure_built(quiet=False):
        config_settings = _for_this_platform(config_settings)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def _for_this_platform(settings: Settings | None) -> Settings:
    """Return *settings* with the name of the platform: the compiled code runs on no other one."""
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return {**(settings or {}), "--build-option": ["--plat-name", platform]}
