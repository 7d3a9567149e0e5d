"""``python -m bundle.lock``: writes which of the locked libraries a running service needs.

The service image installs these, and nothing of what the tests need. The versions are those of
`requirements.lock`, with which the tests run.
"""

from __future__ import annotations

import re
from pathlib import Path

from packaging.utils import canonicalize_name

from bundle.distributions import EXTRAS, required

__all__ = ["SERVICE_LOCK", "service_lock"]

_ROOT = Path(__file__).parents[1]
_LOCK = _ROOT / "requirements.lock"
SERVICE_LOCK = _ROOT / "requirements-service.lock"


def service_lock() -> str:
    """The lines of `requirements.lock` that the service and all its extras need.

    Raises PackageNotFoundError if one of them isn't installed here, and LookupError if it has no
    line there.
    """
    setup = _ROOT / "setup.cfg"
    needed = set(required(setup)).union(*(required(setup, extra) for extra in EXTRAS))
    lines = {
        canonicalize_name(re.split("[=<>@ ]", line)[0]): line
        for line in _LOCK.read_text(encoding="utf-8").splitlines()
    }
    if missing := needed - lines.keys():
        raise LookupError(f"requirements.lock lacks {', '.join(sorted(missing))}")
    return "".join(f"{lines[name]}\n" for name in lines if name in needed)


if __name__ == "__main__":
    SERVICE_LOCK.write_text(service_lock(), encoding="utf-8")
