# SPDX-License-Identifier: Apache-2.0
"""Another caching service (PCCS, or one of ours) as a source; its interface of version 3 or 4."""

import re
from pathlib import Path
from typing import Final

from kubenclave.services.collateral.items import ItemKey, Tee
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer, PckRequest, unknown
from kubenclave.services.collateral.sources.http import Http, check_url
from kubenclave.services.collateral.sources.routes import item_of, pck_answer, route_of

_PATH: Final = re.compile(r"/sgx/certification/(v[34])\Z")
_NO_PPID: Final = bytes(384)


class PccsSource:
    """PCCS at ``url``, of version 4 unless ``/sgx/certification/v3`` is behind the host. CRLs may come in any form.

    ``ca_file`` is the CA, or the certificate itself, where no public CA vouches for the service.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        ca_file: Path | None = None,
        total_seconds: float = 60.0,
    ) -> None:
        self.name: Final = name
        base = check_url(url)
        path = _PATH.search(base)
        self._url: Final = base if path is None else base[: path.start()]
        self._version: Final = "v4" if path is None else path[1]
        self._http: Final = Http(name, url, ca_file=ca_file, total_seconds=total_seconds)

    async def fetch(self, key: ItemKey) -> Fetched:
        """Return one item. Version 3 knows nothing of TDX."""
        if key.tee is Tee.TDX and self._version == "v3":
            raise unknown(str(key), self.name, "version 3 of the interface has nothing for TDX")
        path, parameters = route_of(key, self._version)
        return item_of(key, await self._http.ask(str(key), self._url + path, parameters=parameters))

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        """Return the certificate for the platform's TCB."""
        if not request.qe_id:
            raise unknown("PCK certificate", self.name, "caches know platforms by their QE-ID: it is not given")
        asked = {
            "qeid": request.qe_id.upper(),
            "encrypted_ppid": (request.encrypted_ppid or _NO_PPID).hex().upper(),
            "cpusvn": request.cpu_svn.hex().upper(),
            "pcesvn": request.pce_svn.hex().upper(),
            "pceid": request.pce_id.hex().upper(),
        }
        url = f"{self._url}/sgx/certification/{self._version}/pckcert"
        return pck_answer(await self._http.ask("PCK certificate", url, parameters=asked))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
