"""The service and its libraries, copied from the environment of the build.

So the file contains exactly the tested versions, and nothing is downloaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundle.interpreter import SITE, ignoring

__all__ = ["EXTRAS", "LAKE_EXTRAS", "copy_libraries", "copy_service", "required"]

EXTRAS = ("aws", "azure", "cli", "gcp", "postgres", "tracing")
"""Optional extras; a single file includes those that are installed where it is built."""

LAKE_EXTRAS = ("iceberg", "parquet")
"""Extras of lake targets.

They are as large as everything else, so they are neither in a single file nor in the image.
"""

_LEFT_OUT = {
    *("setuptools", "pycparser"),  # needed only by builds
    *(
        "aiohttp",
        "numpy",
        "pynacl",
    ),  # needed only by parts of txaioetcd and zlmdb that we don't use
}
"""Dependencies of others that aren't needed here; both work without the latter."""

_LEFT_OUT_NAMES = {"__pycache__", "test", "tests", "testing", "etcdctl", "etcdutl", "_flatc"}


_BOTOCORE_SERVICES = {"kms", "signin", "sso", "sso-oidc", "sts"}
"""Services whose descriptions are kept: the key service, and those for credentials.
"""


def required(setup: Path, extra: str = "") -> dict[str, Distribution]:
    """Return the installed distributions that the service needs, by canonical name.

    :param setup: the ``setup.cfg`` with the direct ones.
    :param extra: return those of an extra instead.

    Raises PackageNotFoundError if one isn't installed.
    """
    config = ConfigParser()
    config.read(setup, encoding="utf-8")
    named = (
        config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    )
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    for text in named.split("\n"):
        if text.strip():
            _collect(Requirement(text), found, seen)
    return found


def _collect(
    requirement: Requirement, found: dict[str, Distribution], seen: set[tuple[str, str]]
) -> None:
    name = canonicalize_name(requirement.name)
    if name in _LEFT_OUT:
        return
    for extra in ("", *sorted(requirement.extras)):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.setdefault(name, distribution(name))
        for text in found[name].requires or []:
            below = Requirement(text)
            if below.marker is None or below.marker.evaluate({"extra": extra}):
                _collect(below, found, seen)


def copy_libraries(tree: Path, distributions: Iterable[Distribution]) -> None:
    """Copy the files of *distributions* into *tree*, without commands, tests and caches."""
    for found in distributions:
        for path in _wanted(found.files or []):
            source = Path(str(found.locate_file(path)))
            target = tree / SITE / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def copy_service(tree: Path, root: Path) -> None:
    """Copy the packages of the service from the checkout at *root* into *tree*."""
    shutil.copytree(
        root / "stream", tree / SITE / "stream", ignore=ignoring(lambda name: name in _CACHES)
    )
    plugins = tree / SITE / "twisted" / "plugins"
    for plugin in (root / "twisted" / "plugins").glob("*.py"):
        shutil.copy(plugin, plugins)


_CACHES = {"__pycache__"}


def _wanted(files: Iterable[PurePath]) -> Iterator[PurePath]:
    for path in files:
        parts = set(path.parts)
        if path.is_absolute() or ".." in parts or path.suffix in {".pyc", ".pyi"}:
            continue
        if not parts & _LEFT_OUT_NAMES and not _is_of_another_service(path.parts):
            yield path


def _is_of_another_service(parts: tuple[str, ...]) -> bool:
    return (
        parts[:2] == ("botocore", "data")
        and len(parts) > len(("botocore", "data", "_retry.json"))
        and parts[2] not in _BOTOCORE_SERVICES
    )
