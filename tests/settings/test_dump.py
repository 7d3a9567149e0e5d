"""Dumps of settings, and the help."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import attrs
import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from stream.settings import (
    LEAVES,
    SPECIAL_FLAGS,
    Settings,
    SettingsError,
    dump,
    help_text,
    load,
    masked,
)
from stream.settings.sources import from_file
from tests.effort import examples
from tests.settings.samples import FIXED, KEY, VALID, text_for

FLAGS: dict[str, str | list[str]] = {
    "etcd-password": "p4ssw0rd",
    "encryption-provider": "aes",
    "encryption-aes-secret-key": KEY,
}


@pytest.mark.parametrize("form", ["yaml", "yml", "json"])
def test_secrets_are_masked(form: str) -> None:
    """A dump shows whether a secret is set, but not its value."""
    text = dump(load(FLAGS, VALID), form)
    assert "p4ssw0rd" not in text
    assert KEY not in text
    tree = json.loads(text) if form == "json" else yaml.safe_load(text)
    assert tree["etcd"]["password"] == "*****"
    assert tree["encryption"] == {"provider": "aes", "aes": {"secretKey": "*****"}}


def test_both_formats_are_equivalent() -> None:
    """YAML and JSON differ only in syntax."""
    settings = load(FLAGS, VALID)
    assert json.loads(dump(settings, "json")) == yaml.safe_load(dump(settings, "yaml"))
    assert json.loads(dump(settings, "json")) == masked(settings)


def test_the_order_of_keys() -> None:
    """Keys have the order of the declaration."""
    keys: list[str] = []

    def walk(tree: dict[str, object], prefix: str) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")
            else:
                keys.append(prefix + name)

    walk(masked(Settings()), "")
    expected = [leaf.key for leaf in LEAVES if not leaf.key.startswith("encryption.")]
    provider = expected.index("sandbox.listen")
    assert keys == [*expected[:provider], "encryption.provider", *expected[provider:]]


def test_yaml_layout() -> None:
    """Four blanks of indentation, and a comment with the rules above each leaf."""
    lines = dump(Settings(), "yaml").split("\n")
    start = lines.index("source:")
    assert lines[start + 1 : start + 6] == [
        "    http:",
        "        # Address of the HTTP source. Validation rules: required,hostname_port",
        "        listen: 0.0.0.0:7000",
        "        # URL of the HTTP source for producers.",
        "        publicUrl: null",
    ]
    assert "        trustedProxies: []" in lines
    types = lines.index("                    preferredTypes:")
    assert lines[types + 1] == "                        - default"


def test_the_defaults_are_those_of_the_snapshot() -> None:
    """The defaults equal those in the file of this folder, so that changes are visible in
    review.
    """
    settings = attrs.evolve(Settings(), node_id="my-node")
    expected = (Path(__file__).parent / "defaults.yaml").read_text()
    assert dump(settings, "yaml") + "\n" == expected


def test_a_dump_can_be_loaded(tmp_path: Path) -> None:
    """A dump used as a configuration file results in the same settings, except for secrets."""
    path = tmp_path / "dump.yaml"
    settings = load({"source-http-trusted-proxies": "10.0.0.0/8"}, VALID)
    path.write_text(dump(settings, "yaml"))
    assert load({}, {}, [str(path)]) == settings


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_dump_without_defaults_can_be_loaded(form: str, tmp_path: Path) -> None:
    """A dump in which every value differs from its default can be loaded."""
    flags = {leaf.flag: text_for(leaf) for leaf in LEAVES if leaf.key not in FIXED}
    settings = load(flags, {})
    path = tmp_path / f"dump.{form}"
    path.write_text(dump(settings, form), encoding="utf-8")
    secrets = {leaf.env: flags[leaf.flag] for leaf in LEAVES if leaf.secret}
    assert load({}, secrets, [str(path)]) == settings


@effort(max_examples=examples(15), deadline=None)
@example("\x85")
@example("a\n b\u2028\t")
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_is_preserved(text: str) -> None:
    """Text that looks like a number, YAML syntax or nothing is parsed to the same text."""
    settings = attrs.evolve(Settings(), node_id=text)
    for suffix in ("yaml", "json"):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"dump.{suffix}"
            path.write_text(dump(settings, suffix), encoding="utf-8", newline="")
            [node_id] = [raw.value for raw in from_file(str(path))[0] if raw.leaf.key == "nodeID"]
        assert node_id == text


def test_an_unknown_format() -> None:
    """An unknown format is refused, and the error lists the known ones."""
    with pytest.raises(SettingsError) as caught:
        dump(Settings(), "x")
    assert str(caught.value) == 'Unexpected dump format "x": expected "json", "yml" or "yaml".'


def test_help_lists_each_flag() -> None:
    """Help begins with the introduction and lists each flag by section, without secret defaults."""
    text = help_text("service", "What {program} does.\n")
    assert text.startswith("What service does.\n\nOptions:\n")
    flags = [line.split()[0] for line in text.split("\n") if line.startswith("  --")]
    assert len(flags) == len(set(flags)) == len(LEAVES) + len(SPECIAL_FLAGS)
    assert {f"--{leaf.flag}" for leaf in LEAVES} < set(flags)
    assert {"--config-file", "--dump-config", "--help", "--version"} < set(flags)
    assert '"sandbox-token"' not in text
    assert '(default "0.0.0.0:8000")' in text
    assert '"--foo-bar" becomes the "STREAM_FOO_BAR" ENV' in text
    after = text.partition("Settings, api:\n")[2]
    assert after.startswith("  --api-listen string\n        Address of the API.")


@pytest.mark.parametrize(("width", "longest"), [(20, 60), (80, 80), (500, 100)])
def test_help_fits_the_terminal(width: int, longest: int) -> None:
    """Descriptions are wrapped within limits."""
    lines = [line for line in help_text("x", "", width).split("\n") if line.startswith("        ")]
    assert longest - 20 < max(map(len, lines)) <= longest
