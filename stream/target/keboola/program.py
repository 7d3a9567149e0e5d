"""A programmatic token before it is exchanged."""

from __future__ import annotations

import attrs

from stream.values.token import Token, is_sendable

__all__ = ["ProgramToken"]

_BEARER = "Bearer "


def _check(_instance: object, _attribute: object, value: str) -> None:
    if value and not is_sendable(value):
        raise ValueError("the token contains characters that a header can't contain")


@attrs.frozen(repr=False)
class ProgramToken(Token):
    """A programmatic token, which has to be exchanged before use.

    :param service_account: the token that authorizes the exchange; it must fit into a header.
    """

    service_account: str = attrs.field(default="", validator=_check)

    def on_behalf_of(self, service_account: str) -> ProgramToken:
        """Return the same token with the service account that exchanges it.

        :param service_account: token of the service account.
        """
        return attrs.evolve(self, service_account=service_account)

    def headers(self) -> dict[str, str]:
        """The HTTP headers of the exchange."""
        return {
            "X-Subject-Token": f"{_BEARER}{self.value}",
            "X-Kubernetes-Authorization": f"{_BEARER}{self.service_account}",
        }

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that must not appear in any text."""
        return self.value, self.service_account
