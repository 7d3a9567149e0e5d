"""The command line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.settings import LEAVES, SettingsError, parse_argv


def test_forms_of_flags() -> None:
    """Flags and components can be mixed; a boolean needs no value; two dashes end the flags."""
    line = parse_argv(
        ["api", "--node-id", "n1", "--hostname=h", "--debug-log", "http-source", "--", "--x"]
    )
    assert line.flags == {"node-id": "n1", "hostname": "h", "debug-log": "true"}
    assert line.arguments == ("api", "http-source", "--x")


def test_boolean_with_a_value() -> None:
    """A boolean gets its value only with an equals sign."""
    line = parse_argv(["--datadog-enabled=false", "api"])
    assert line.flags == {"datadog-enabled": "false"}
    assert line.arguments == ("api",)


def test_lists_and_other_flags() -> None:
    """Repeated list flags are collected; flags that aren't settings are returned separately."""
    line = parse_argv(
        [
            *("--config-file", "a.yaml,b.json", "--config-file=c.yml", "--dump-config", "yaml"),
            *("--source-http-trusted-proxies", "::1", "--source-http-trusted-proxies=::2", "-h"),
        ]
    )
    assert line.config_files == ("a.yaml", "b.json", "c.yml")
    assert line.special["dump-config"] == "yaml"
    assert line.special["help"] == "true"
    assert line.flags == {"source-http-trusted-proxies": ["::1", "::2"]}


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--foo"], "Cannot parse flags: unknown flag: --foo."),
        (["--foo=bar"], "Cannot parse flags: unknown flag: --foo."),
        (["-x"], "Cannot parse flags: unknown flag: -x."),
        (["--node-id"], "Cannot parse flags: flag needs an argument: --node-id."),
        (
            ["--confg-file=x"],
            "Cannot parse flags: unknown flag: --confg-file, did you mean --config-file?",
        ),
        (
            ["--component=api"],
            "Cannot parse flags: unknown flag: --component, did you mean --components?",
        ),
        (
            ["--etcd-endpoints"],
            "Cannot parse flags: unknown flag: --etcd-endpoints, did you mean --etcd-endpoint?",
        ),
    ],
)
def test_invalid_command_lines(argv: list[str], text: str) -> None:
    """The error names the invalid part."""
    with pytest.raises(SettingsError) as caught:
        parse_argv(argv)
    assert str(caught.value) == text


@given(
    st.lists(
        st.one_of(
            st.text(),
            st.sampled_from(["--", "-", "-h", "--config-file", "--dump-config=yaml", "api"]),
            st.builds("--{}={}".format, st.sampled_from([leaf.flag for leaf in LEAVES]), st.text()),
        )
    )
)
def test_any_command_line_is_parsed_or_refused(argv: list[str]) -> None:
    """Every command line is parsed or refused with an error."""
    with contextlib.suppress(SettingsError):
        line = parse_argv(argv)
        assert len(line.arguments) <= len(argv)
        assert all(isinstance(path, str) for path in line.config_files)
