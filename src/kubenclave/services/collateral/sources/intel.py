# SPDX-License-Identifier: Apache-2.0
"""Intel's own service as a source (PCS API, version 4)."""

from pathlib import Path
from typing import Final

from kubenclave.errors import UsageError
from kubenclave.services.collateral.items import ItemKey, Kind
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer, PckRequest, unknown
from kubenclave.services.collateral.sources.http import Http, check_url
from kubenclave.services.collateral.sources.routes import item_of, route_of
from kubenclave.wire import pcs

SERVICE: Final = "https://api.trustedservices.intel.com"
ROOT_CRL_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_MOST_KEY_BYTES: Final = 1024


class IntelSource:
    """PCS at ``url``; the root CRL is on a host of its own.

    ``api_key_file`` holds the subscription key, read anew for each request and sent with those for PCK certificates
    alone.
    """

    def __init__(
        self,
        name: str = "intel",
        *,
        url: str = SERVICE,
        root_crl_url: str = ROOT_CRL_URL,
        api_key_file: Path | None = None,
        ca_file: Path | None = None,
        total_seconds: float = 60.0,
    ) -> None:
        self.name: Final = name
        self._url: Final = check_url(url)
        self._root_crl_url: Final = check_url(root_crl_url)
        self._api_key_file: Final = api_key_file
        self._http: Final = Http(name, url, root_crl_url, ca_file=ca_file, total_seconds=total_seconds)

    async def fetch(self, key: ItemKey) -> Fetched:
        """Return one item."""
        if key.kind is Kind.ROOT_CRL:
            return item_of(key, await self._http.ask(str(key), self._root_crl_url))
        path, parameters = route_of(key)
        return item_of(key, await self._http.ask(str(key), self._url + path, parameters=parameters))

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        """Return all certificates of a platform, by its encrypted PPID or its manifest."""
        what, url = "PCK certificates", f"{self._url}/sgx/certification/v4/pckcerts"
        headers = self._api_key()
        pce_id = request.pce_id.hex()
        if request.manifest is not None:
            body = {"platformManifest": request.manifest, "pceid": pce_id}
            answer = await self._http.ask(what, url, headers=headers, json=body)
        elif request.encrypted_ppid is not None:
            asked = {"encrypted_ppid": request.encrypted_ppid.hex(), "pceid": pce_id}
            answer = await self._http.ask(what, url, headers=headers, parameters=asked)
        else:
            raise unknown(
                what, self.name, "Intel knows platforms by their encrypted PPID or manifest: neither is given"
            )
        return PckAnswer(pcs.parse_pck_certs(answer.body), pcs.decode_chain(answer.header(pcs.PCK_CHAIN)))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def _api_key(self) -> dict[str, str]:
        if self._api_key_file is None:
            return {}
        try:
            with self._api_key_file.open("rb") as file:
                key = file.read(_MOST_KEY_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "it is no text"
            raise UsageError(
                "the file with the API key cannot be read",
                code="source.api-key",
                field=str(self._api_key_file),
                found=reason,
            ) from error
        return {pcs.API_KEY: key}
