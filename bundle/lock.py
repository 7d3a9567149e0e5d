"""``python -m bundle.lock``: writes the locked libraries that a running service needs.

The service image installs only these, without the tests' libraries. The versions are those of
`requirements.lock`, which the tests use. The large libraries of lake targets are in a separate
file.
"""

from __future__ import annotations

import re
from pathlib import Path

from packaging.utils import canonicalize_name

from bundle.distributions import EXTRAS, LAKE_EXTRAS, required

__all__ = ["LAKE_LOCK", "SERVICE_LOCK", "lake_lock", "service_lock"]

_ROOT = Path(__file__).parents[1]
_LOCK = _ROOT / "requirements.lock"
SERVICE_LOCK = _ROOT / "requirements-service.lock"
LAKE_LOCK = _ROOT / "requirements-lake.lock"


def service_lock() -> str:
    """Return the lines of `requirements.lock` that the service and all its extras need.

    Raises PackageNotFoundError: a library isn't installed here. Raises LookupError: it has no line.
    """
    setup = _ROOT / "setup.cfg"
    return _locked(set(required(setup)).union(*(required(setup, extra) for extra in EXTRAS)))


def lake_lock() -> str:
    """Return the lines that targets of lakes need; raises the errors of `service_lock`."""
    setup = _ROOT / "setup.cfg"
    needed = set().union(*(required(setup, extra) for extra in LAKE_EXTRAS))
    of_service = set(service_lock().splitlines())
    lines = _locked(needed).splitlines()
    return "".join(f"{line}\n" for line in lines if line not in of_service)


def _locked(needed: set[str]) -> str:
    lines = {
        canonicalize_name(re.split("[=<>@ ]", line)[0]): line
        for line in _LOCK.read_text(encoding="utf-8").splitlines()
    }
    if missing := needed - lines.keys():
        raise LookupError(f"requirements.lock lacks {', '.join(sorted(missing))}")
    return "".join(f"{lines[name]}\n" for name in lines if name in needed)


if __name__ == "__main__":
    SERVICE_LOCK.write_text(service_lock(), encoding="utf-8")
    LAKE_LOCK.write_text(lake_lock(), encoding="utf-8")
