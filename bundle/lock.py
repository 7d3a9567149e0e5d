"""``python -m bundle.lock``: writes which of the locked libraries a running service needs.

The service image installs these, and nothing of what the tests need. The versions are those of
`requirements.lock`, with which the tests run. What only targets of lakes need, which is large, is
in a file of its own.
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
    """The lines of `requirements.lock` that the service and all its extras need.

    Raises PackageNotFoundError if one of them isn't installed here, and LookupError if it has no
    line there.
    """
    setup = _ROOT / "setup.cfg"
    return _locked(set(required(setup)).union(*(required(setup, extra) for extra in EXTRAS)))


def lake_lock() -> str:
    """The lines that targets of lakes need, too; raises what `service_lock` raises."""
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
