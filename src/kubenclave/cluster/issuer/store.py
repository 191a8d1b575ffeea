# SPDX-License-Identifier: Apache-2.0
"""What the issuer keeps in the cluster: the seed of its root in one Secret, what everybody may read in a ConfigMap."""

import base64
import binascii
import json
import os
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.cluster.api import CONFIG_MAPS, CONFLICT, EXISTS, NOT_FOUND, SECRETS, ClusterApi
from kubenclave.errors import ClusterError, PlatformError
from kubenclave.platform.simulated.pki import SEED_SIZE

MANAGER: Final = "kubenclave-issuer"
_SEED: Final = "seed"
_LABELS: Final = {"app.kubernetes.io/name": "kubenclave", "kubenclave.dev/simulated": "true"}


@dataclass(frozen=True, slots=True)
class Store:
    """The two objects of an issuer."""

    api: ClusterApi
    namespace: str
    secret: str
    config_map: str

    async def seed(self) -> bytes:
        """Return the seed of the root, 32 bytes, made when there is none yet.

        The chart makes the Secret without a seed, so that nobody needs the right to create Secrets.
        Raises ClusterError or UnreachableError, and PlatformError ``simissuer.seed`` when the Secret holds no seed.
        """
        try:
            found = await self.api.get(SECRETS, self.secret, namespace=self.namespace)
        except ClusterError as error:
            if error.code != NOT_FOUND:
                raise
            return self._read(await self._made({"apiVersion": "v1", "kind": "Secret"}))
        if not found.get("data"):
            found = await self._made(found)
        return self._read(found)

    async def _made(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return the Secret with a new seed, or with that of somebody who was quicker."""
        data = {_SEED: base64.b64encode(os.urandom(SEED_SIZE)).decode()}
        try:
            if "metadata" not in before:
                new = {**before, "metadata": {"name": self.secret, "labels": _LABELS}, "data": data}
                return await self.api.create(SECRETS, new, namespace=self.namespace)
            version = {"resourceVersion": before["metadata"]["resourceVersion"]}
            change = {"metadata": version, "data": data}
            return await self.api.patch(SECRETS, self.secret, change, namespace=self.namespace)
        except ClusterError as error:
            if error.code not in (EXISTS, CONFLICT):
                raise
            return await self.api.get(SECRETS, self.secret, namespace=self.namespace)

    def _read(self, secret: dict[str, Any]) -> bytes:
        try:
            seed = base64.b64decode((secret.get("data") or {}).get(_SEED, ""), validate=True)
        except binascii.Error:
            seed = b""
        if len(seed) != SEED_SIZE:
            raise PlatformError(
                f"the Secret {self.namespace}/{self.secret} holds no seed of a SIMULATED root",
                code="simissuer.seed",
                expected=f"{SEED_SIZE} bytes as {_SEED!r}",
                hint="delete it, and a new root is made: quotes from before verify under the old one only",
            )
        return seed

    async def revoked(self) -> dict[str, str]:
        """Return which platforms were revoked when something was last published, by node."""
        try:
            found = await self.api.get(CONFIG_MAPS, self.config_map, namespace=self.namespace)
            content = json.loads((found.get("data") or {}).get("revoked.json", "{}"))
        except ClusterError as error:
            if error.code != NOT_FOUND:
                raise
            return {}
        except ValueError:  # somebody has edited it
            return {}
        return {str(node): str(platform) for node, platform in content.items()} if isinstance(content, dict) else {}

    async def publish(self, data: dict[str, str]) -> None:
        """Write the ConfigMap that everybody may read."""
        wanted = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.config_map, "namespace": self.namespace},
            "data": data,
        }
        await self.api.apply(CONFIG_MAPS, wanted, manager=MANAGER, force=True)
