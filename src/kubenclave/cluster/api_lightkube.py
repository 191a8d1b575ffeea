# SPDX-License-Identifier: Apache-2.0
"""The verbs of ``cluster.api`` by lightkube: it finds the cluster, logs in and keeps tokens fresh.

Its generated models stay unused: objects are plain dicts here.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError

from kubenclave.cluster.api import CONFLICT, EXISTS, EXPIRED, FORBIDDEN, NOT_FOUND, Event, Keep, Kind, Listing, Object
from kubenclave.errors import ClusterError, UnreachableError, UsageError

TIMEOUT: Final = 10.0
"""Seconds for one answer. A watch may be silent for as long as the server lets it live."""

_PAGE: Final = 500
_WATCH: Final = 300.0
_MERGE_PATCH: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_APPLY_PATCH: Final = "application/apply-patch+yaml"  # JSON is YAML

# What lightkube lets through of a configuration that has not the form of one.
_UNUSABLE: Final = (
    ConfigError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    msgspec.MsgspecError,
    yaml.YAMLError,
)
_CODES: Final = {
    401: "cluster.unauthorized",
    403: FORBIDDEN,
    404: NOT_FOUND,
    409: CONFLICT,
    410: EXPIRED,
    400: "cluster.invalid",
    413: "cluster.invalid",
    422: "cluster.invalid",
}
_HINTS: Final = {
    "cluster.unauthorized": "log in to the cluster anew: kubectl auth whoami says as whom",
    FORBIDDEN: "kubectl auth can-i --list shows what this account may do",
}


class LightkubeApi:
    """A ClusterApi of one cluster; an async context manager that closes its connections."""

    def __init__(self, config: SingleConfig, *, in_cluster: bool = False) -> None:
        self.namespace: Final[str] = config.namespace
        # A proxy of the environment is for what is outside the cluster.
        params = ConnectionParams(timeout=httpx2.Timeout(TIMEOUT), trust_env=not in_cluster)
        self._client: Final[httpx2.AsyncClient] = AsyncClient(config, params)

    @classmethod
    def connect(cls, *, kubeconfig: str | None = None, context: str | None = None) -> Self:
        """Find the cluster: as given, else the one this pod runs in, else by $KUBECONFIG or ~/.kube/config.

        Nothing is sent yet. Raises UsageError when no cluster is configured, or not in a way that can be used.
        """
        try:
            if kubeconfig is None and context is None:
                try:
                    return cls(_chosen(KubeConfig.from_service_account(), None), in_cluster=True)
                except (ConfigError, KeyError):
                    pass  # not in a pod
            found = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_env(service_account="/nowhere")
            return cls(_chosen(found, context))
        except _UNUSABLE as error:
            raise UsageError(
                "no cluster that can be used is configured",
                code="cluster.config",
                found=str(error) or type(error).__name__,
                hint="kubectl config view shows what is there; or name a file with --kubeconfig",
            ) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(
        self, kind: Kind, name: str, *, namespace: str | None = None, subresource: str | None = None
    ) -> Object:
        """Return one object."""
        return await self._ask("GET", self._path(kind, namespace, name, subresource))

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        keep: Keep | None = None,
    ) -> Listing:
        """Return all objects that the selectors match, read in pages."""
        params = {**_selectors(labels, fields), "limit": str(_PAGE)}
        items: list[Object] = []
        while True:
            page = await self._ask("GET", kind.path(namespace), params=params)
            found = page.get("items") or []
            items += found if keep is None else [kept for one in found if (kept := keep(one)) is not None]
            if not (more := page["metadata"].get("continue")):
                return Listing(items, page["metadata"]["resourceVersion"])
            params["continue"] = more

    async def watch(
        self,
        kind: Kind,
        *,
        version: str,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield the changes after ``version`` until the server ends the watch."""
        params = {
            **_selectors(labels, fields),
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(_WATCH)),
        }
        # Silence longer than the watch may live is a connection that died without a word.
        silence = httpx2.Timeout(TIMEOUT, read=_WATCH + TIMEOUT)
        async with _reaching():
            stream = self._client.stream("GET", kind.path(namespace), params=params, timeout=silence)
            async with stream as response:
                if response.is_error:
                    await response.aread()
                _check(response)
                async for line in response.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _refused(event["object"].get("code", 500), event["object"])
                    yield Event(event["type"], event["object"])

    async def create(
        self,
        kind: Kind,
        new: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Create an object, or a subresource of ``name``."""
        params = {"dryRun": "All"} if dry_run else {}
        return await self._ask("POST", self._path(kind, namespace, name, subresource), body=new, params=params)

    async def apply(self, kind: Kind, wanted: Object, *, manager: str, force: bool = False) -> Object:
        """Apply on the server what ``manager`` wants of the object that ``wanted`` names."""
        metadata = wanted["metadata"]
        path = self._path(kind, metadata.get("namespace"), metadata["name"])
        params = {"fieldManager": manager, "force": str(force).lower()}
        return await self._ask("PATCH", path, body=wanted, params=params, form=_APPLY_PATCH)

    async def patch(
        self,
        kind: Kind,
        name: str,
        change: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """Patch an object: a mapping is a JSON merge patch, a sequence a JSON patch."""
        form = _MERGE_PATCH if isinstance(change, Mapping) else _JSON_PATCH
        return await self._ask("PATCH", self._path(kind, namespace, name, subresource), body=change, form=form)

    async def delete(self, kind: Kind, name: str, *, namespace: str | None = None) -> None:
        """Delete an object, its dependents in the background."""
        params = {"propagationPolicy": "Background"}
        await self._ask("DELETE", self._path(kind, namespace, name), params=params)

    async def read(self, path: str) -> Object:
        """Return what the server says under another path."""
        return await self._ask("GET", path)

    @staticmethod
    def _path(kind: Kind, namespace: str | None, name: str | None, subresource: str | None = None) -> str:
        # A name may come from a command line; it must not become another path.
        return kind.path(namespace, name and quote(name, safe=""), subresource)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
        form: str = "application/json",
    ) -> Object:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": form} if content is not None else {}
        async with _reaching():
            response = await self._client.request(method, path, params=params, content=content, headers=headers)
            _check(response)
            found: Object = response.json()
            return found


def _chosen(config: KubeConfig, context: str | None) -> SingleConfig:
    """Return one context; raises ConfigError where there is none, or nobody to log in as."""
    single = config.get(context)
    if single is None or single.user is None:
        raise ConfigError("no context with a user")
    return single


def _selectors(labels: str | None, fields: str | None) -> dict[str, str]:
    return {key: text for key, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def _check(response: httpx2.Response) -> None:
    """Raise ClusterError unless the server did what it was asked for."""
    if not response.is_error:
        return
    try:
        status = response.json()
    except ValueError:
        status = None
    raise _refused(response.status_code, status if isinstance(status, dict) else {})


def _refused(http_status: int, status: Mapping[str, Any]) -> ClusterError:
    """Make the error of a refusal, in the server's own words."""
    code = EXISTS if status.get("reason") == "AlreadyExists" else _CODES.get(http_status, "cluster.failed")
    message = str(status.get("message") or "no reason given")
    return ClusterError(f"API server: {message}", code=code, found=f"HTTP {http_status}", hint=_HINTS.get(code))


@asynccontextmanager
async def _reaching() -> AsyncIterator[None]:
    """Turn what the transport raises into UnreachableError."""
    try:
        yield
    except (httpx2.TransportError, httpx2.InvalidURL, ConfigError, OSError, ValueError) as error:
        raise UnreachableError(
            "the API server does not answer",
            code="cluster.unreachable",
            found=str(error) or type(error).__name__,
            hint="kubectl version says whether it can be reached from here",
        ) from error
