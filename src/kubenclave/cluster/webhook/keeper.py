# SPDX-License-Identifier: Apache-2.0
"""Keeps the certificates in their Secret and the CAs in the webhook configuration.

Every replica does the same, and none leads: whatever one writes is refused as a conflict when another was quicker.
The configuration is read before the Secret and only changed as it was read; so the CAs written are never older than
those that stand there, and a rotation cannot be undone by a replica that is late.
"""

import asyncio
import base64
import binascii
import datetime as dt
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from kubenclave.cluster.api import CONFLICT, MUTATING_WEBHOOKS, SECRETS, ClusterApi, Event, Object, follow
from kubenclave.cluster.webhook.certificates import Credentials, Lifetimes, step
from kubenclave.errors import ClusterError, FormatError, UnreachableError
from kubenclave.wire.metrics import Metrics

_ATTEMPTS: Final = 5

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: names of the Service, the Secret and the webhook configuration."""

    namespace: str
    service: str = "kubenclave-webhook"
    secret: str = "kubenclave-webhook-tls"  # noqa: S105 - a name
    configuration: str = "kubenclave-webhook"

    @property
    def dns_names(self) -> Sequence[str]:
        """Names under which the API server, and others in the cluster, reach the Service."""
        name = f"{self.service}.{self.namespace}.svc"
        return [name, f"{name}.cluster.local"]


class Keeper:
    """Certificates of one replica. ``use`` gets each new state, before anybody relies on it."""

    def __init__(
        self,
        api: ClusterApi,
        place: Place,
        use: Callable[[Credentials], None],
        metrics: Metrics,
        *,
        lifetimes: Lifetimes,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._api = api
        self._place = place
        self._use = use
        self._lifetimes = lifetimes
        self._now = now
        self._held: Credentials | None = None
        self._trusted = False
        self._ends = metrics.gauge(
            "kubenclave_webhook_certificate_expiry_timestamp_seconds",
            "When a certificate of the webhook ends, in Unix time.",
            "certificate",
        )
        self._failures = metrics.counter(
            "kubenclave_webhook_upkeep_failures_total", "Times at which the certificates could not be looked after."
        )

    def missing(self) -> str | None:
        """Say what is missing before API servers can rely on this replica, None when nothing is."""
        if self._held is None:
            return "no certificate yet"
        if self._held.leaf.ends <= self._now():
            return "the certificate has ended"
        return None if self._trusted else f"{self._place.configuration} does not hold our CA yet"

    async def run(self) -> None:
        """Look after the certificates, and take over what others wrote, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._upkeep())

    async def _upkeep(self) -> None:
        """Do what is due, often enough that nothing is late by more than a part of the time it may take."""
        pause = min(60.0, self._lifetimes.settle.total_seconds() / 2)
        while True:
            try:
                await self.look_after()
            except (ClusterError, UnreachableError) as error:
                self._failures.inc()
                _log.warning("certificates.upkeep-failed", error=str(error), code=error.code, hint=error.hint)
            # Not all replicas at once. Until somebody can rely on this one it tries as often as it may.
            await asyncio.sleep((pause if self.missing() is None else 1.0) * random.uniform(0.8, 1.2))  # noqa: S311

    async def look_after(self) -> None:
        """Do everything that is due now. Raises ClusterError and UnreachableError."""
        for _ in range(_ATTEMPTS):
            try:
                if await self._once():
                    return
            except ClusterError as error:
                if error.code != CONFLICT:
                    raise
                # Another replica was quicker: look at what it did.

    async def _once(self) -> bool:
        """Do the next thing that is due; tell whether it was the last."""
        configuration = await self._api.get(MUTATING_WEBHOOKS, self._place.configuration)
        secret = await self._api.get(SECRETS, self._place.secret, namespace=self._place.namespace)
        held = _read(secret)
        wanted = step(held, self._now(), self._place.dns_names, self._lifetimes)
        if wanted is not held:
            self._take(_read(await self._write(secret, wanted)))
            return False
        self._take(held)
        await self._publish(configuration, wanted.bundle)
        self._trusted = True
        if wanted.successor is not None and wanted.published is None:
            await self._write(secret, replace(wanted, published=self._now()))
        return True

    async def _write(self, secret: Object, wanted: Credentials) -> Object:
        """Write the Secret, unless somebody else has since it was read."""
        _log.info(
            "certificates.written",
            ca_ends=wanted.authority.ends.isoformat(),
            leaf_ends=wanted.leaf.ends.isoformat(),
            successor=wanted.successor is not None,
        )
        data = {
            key: None if value is None else base64.b64encode(value).decode() for key, value in wanted.as_data().items()
        }
        change = {"metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]}, "data": data}
        return await self._api.patch(SECRETS, self._place.secret, change, namespace=self._place.namespace)

    async def _publish(self, configuration: Object, bundle: bytes) -> None:
        """Make the configuration trust these CAs, unless somebody else has changed it since it was read."""
        text = base64.b64encode(bundle).decode()
        changes = [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": text}
            for index, webhook in enumerate(configuration.get("webhooks") or ())
            if webhook["clientConfig"].get("caBundle") != text
        ]
        if not changes:
            return
        version = configuration["metadata"]["resourceVersion"]
        unchanged = {"op": "replace", "path": "/metadata/resourceVersion", "value": version}
        await self._api.patch(MUTATING_WEBHOOKS, self._place.configuration, [unchanged, *changes])
        _log.info("certificates.published", configuration=self._place.configuration)

    async def _watch(self) -> None:
        """Take over what any replica writes, at once: what the kubelet mounts would come a minute later."""
        only = f"metadata.name={self._place.secret}"
        async for seen in follow(self._api, SECRETS, namespace=self._place.namespace, fields=only):
            changed = [seen.object] if isinstance(seen, Event) else seen.items
            for secret in changed:
                if not (isinstance(seen, Event) and seen.type == "DELETED"):
                    self._take(_read(secret))

    def _take(self, held: Credentials | None) -> None:
        """Use what the Secret holds, when that is another leaf than before."""
        if held is None:
            return
        self._ends.set(held.authority.ends.timestamp(), "ca")
        self._ends.set(held.leaf.ends.timestamp(), "leaf")
        if self._held is None or held.leaf.certificate != self._held.leaf.certificate:
            self._use(held)
            _log.info("certificates.in-use", leaf_ends=held.leaf.ends.isoformat())
        self._held = held


def _read(secret: Object) -> Credentials | None:
    """Return what a Secret holds; what was not written here counts as nothing, and is written anew."""
    try:
        data = {key: base64.b64decode(text, validate=True) for key, text in (secret.get("data") or {}).items()}
        return Credentials.from_data(data)
    except binascii.Error as error:
        _log.warning("certificates.unreadable", error=str(error))
    except FormatError as error:
        _log.warning("certificates.unreadable", error=str(error), code=error.code)
    return None
