"""Normalization of settings, and checks of a whole tree, by field and across fields."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

import attrs

from stream.settings.declare import Leaf, with_values
from stream.settings.rules import REQUIRED
from stream.settings.tree import LEAVES, LEAVES_BY_KEY, EncryptionSettings, Settings

__all__ = ["OWN_ETCD", "applies", "normalise", "problems_of"]

OWN_ETCD = "127.0.0.1:2379"
"""Default address of the etcd of ``etcd.dataDir``, for its listener and its clients."""

PROVIDERS = ("keboola", "stream")
"""Providers of tokens."""

_PROVIDER_SECTIONS = ("aes", "gcp", "aws", "azure")


def applies(leaf: Leaf, settings: Settings) -> bool:
    """Return whether *leaf* applies; only the chosen one of the encryption sections does."""
    section, _, name = leaf.key.partition(".")
    provider, dot, _ = name.partition(".")
    return section != "encryption" or not dot or provider == settings.encryption.provider


def normalise(settings: Settings) -> Settings:
    """Return *settings* in the form that the service uses.

    Addresses are normalized, secrets of providers that aren't chosen are removed, and the endpoint
    of a node's own etcd is added if it was omitted.
    """
    endpoint = settings.etcd.endpoint.strip(" \t/")
    host = settings.storage_api_host.strip().rstrip("/")
    return with_values(
        settings,
        {
            ("etcd", "endpoint"): endpoint or (OWN_ETCD if settings.etcd.data_dir else ""),
            ("etcd", "namespace"): _namespace(settings.etcd.namespace),
            ("storage_api_host",): host,
            ("auth", "provider"): settings.auth.provider.strip() or ("keboola" if host else ""),
            ("api", "public_url"): _public_url(settings.api.public_url),
            ("source", "http", "public_url"): _public_url(settings.source.http.public_url),
            ("encryption",): _only_chosen(settings.encryption),
        },
    )


def problems_of(settings: Settings, unreadable: Collection[str] = ()) -> list[str]:
    """Return what is wrong with *settings*, one text for each problem.

    :param unreadable: keys whose problems are already known; they aren't checked.
    """
    own = dict(_own_checks(settings))
    problems = [text for key, text in own.items() if text and key not in unreadable]
    for leaf in LEAVES:
        if leaf.key in own or leaf.key in unreadable or not applies(leaf, settings):
            continue
        problem = leaf.rule.violation(leaf.get(settings)) or _against_sibling(leaf, settings)
        if problem is not None:
            how = f": set {leaf.env} or --{leaf.flag}" if problem == REQUIRED else ""
            problems.append(f'"{leaf.key}" {problem}{how}')
    return problems


def _own_checks(settings: Settings) -> Iterator[tuple[str, str]]:
    """Iterate over keys checked here and not by their rule, with their problems, empty if valid."""
    for key, problem in (
        ("etcd.endpoint", 'invalid "etcd": etcd endpoint is not set'),
        ("etcd.namespace", 'invalid "etcd": etcd namespace is not set'),
        ("api.publicUrl", 'invalid "api": public address is not set'),
    ):
        leaf = LEAVES_BY_KEY[key]
        if not leaf.get(settings):
            yield key, f'{problem}. Set "{key}", {leaf.env} or --{leaf.flag}'
    yield "auth.provider", _provider_problem(settings)
    network = settings.storage.level.local.writer.network
    if network.transport == "kcp":
        yield (
            "storage.level.local.writer.network.transport",
            'invalid "storage.level.local.writer.network.transport": '
            'the transport "kcp" is not supported, use "tcp"',
        )


def _provider_problem(settings: Settings) -> str:
    provider = settings.auth.provider
    if provider not in ("", *PROVIDERS):
        return f'"auth.provider" must be one of [{" ".join(PROVIDERS)}]'
    if not provider:
        return (
            'choose who knows the tokens of the API: set "storageApiHost" '
            "(STREAM_STORAGE_API_HOST or --storage-api-host) for projects of Keboola, or "
            '"auth.provider" to "stream" (STREAM_AUTH_PROVIDER or --auth-provider) for projects '
            "without it"
        )
    if provider == "keboola" and not settings.storage_api_host:
        return (
            'the "auth.provider" "keboola" needs "storageApiHost": set STREAM_STORAGE_API_HOST or '
            "--storage-api-host"
        )
    return ""


def _against_sibling(leaf: Leaf, settings: Settings) -> str | None:
    sibling = leaf.rule.argument("gtefield")
    if sibling is None:
        return None
    other = LEAVES_BY_KEY[f"{leaf.key.rpartition('.')[0]}.{sibling}"]
    if leaf.get(settings) >= other.get(settings):
        return None
    return f'must be greater than or equal to "{other.key}"'


def _namespace(text: str) -> str:
    trimmed = text.strip(" \t/")
    return f"{trimmed}/" if trimmed else ""


def _public_url(text: str) -> str:
    trimmed = text.strip().rstrip("/")
    if not trimmed or urlsplit(trimmed).scheme in {"http", "https"}:
        return trimmed
    # A host with a port would be parsed as a scheme. The rule checks values with "://".
    return trimmed if "://" in trimmed else f"https://{trimmed.lstrip('/')}"


def _only_chosen(encryption: EncryptionSettings) -> EncryptionSettings:
    empty = EncryptionSettings()
    dropped = {
        name: getattr(empty, name) for name in _PROVIDER_SECTIONS if name != encryption.provider
    }
    return attrs.evolve(encryption, **dropped)
