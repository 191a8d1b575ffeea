# SPDX-License-Identifier: Apache-2.0
"""Asks who wants something, and whether they may: tokens in headers, client certificates of the connection."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.types import Scope

from kubenclave.errors import TrustError
from kubenclave.services.web.credentials import ANYBODY, Credentials, Principal, Role
from kubenclave.services.web.limits import Buckets

CERTIFICATE: Final = "client_certificate"
"""Key in a request's state: the client certificate (DER) that TLS has verified, None without one."""
_PRINCIPAL: Final = "principal"
_PCCS_HEADERS: Final[Mapping[Role, str]] = {Role.COLLATERAL_ADMIN: "admin-token", Role.REGISTER: "user-token"}


class Guard:
    """Lets through who may; ``anybody`` are the roles that need no credential here.

    ``buckets`` bound how often one credential may be used, from however many addresses.
    """

    def __init__(
        self, credentials: Credentials, *, anybody: Iterable[Role] = (), buckets: Buckets | None = None
    ) -> None:
        self._credentials: Final = credentials
        self._anybody: Final = frozenset(anybody)
        self._buckets: Final = buckets
        self._under_way: Final[dict[tuple[Role, str], asyncio.Task[Principal]]] = {}

    async def require(self, request: Request, role: Role) -> Principal:
        """Return who asks. Raises TrustError ``credentials.*`` and, when they ask too often, TooFastError.

        A client certificate counts where no token is presented. A wrong token is refused also where none is needed;
        one of another role says there no less than none.
        """
        presented = presented_token(request, role)
        certificate: bytes | None = request.scope.get("state", {}).get(CERTIFICATE)
        if presented is not None:
            try:
                found = await self._checked(role, presented)
            except TrustError as error:
                if error.code != "credentials.role" or role not in self._anybody:
                    raise
                return ANYBODY
        elif role in self._anybody:
            return ANYBODY
        elif certificate is not None:
            found = self._credentials.check_certificate(role, certificate)
        else:
            found = self._credentials.check(role, None)
        request.scope.setdefault("state", {})[_PRINCIPAL] = found
        if self._buckets is not None:
            self._buckets.take(found.name)
        return found

    async def _checked(self, role: Role, token: str) -> Principal:
        """Check a token in a thread; many who come with the same at once cost no more than one."""
        key = (role, token)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._credentials.check, role, token), name="check a token")
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[Role, str], task: "asyncio.Task[Principal]") -> None:
        """Take a check that has ended off the list; its failure counts as seen, whoever waited may have gone."""
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()


def presented_token(request: Request, role: Role) -> str | None:
    """Return the token of a request: ``Authorization: Bearer``, or the header that PCCS has for this role.

    Raises TrustError ``credentials.unknown`` for another scheme of authorization.
    """
    if (name := _PCCS_HEADERS.get(role)) is not None and (value := request.headers.get(name)) is not None:
        return value
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TrustError("not a bearer token", code="credentials.unknown", expected="Authorization: Bearer TOKEN")
    return token.strip()


def principal_of(scope: Scope) -> Principal:
    """Return who asks, as far as somebody wanted to know; ANYBODY otherwise."""
    found: Principal = scope.get("state", {}).get(_PRINCIPAL, ANYBODY)
    return found
