# SPDX-License-Identifier: Apache-2.0
"""Azure's Trusted Hardware Identity Management as a source: the address that virtual machines see, or its cache.

Numbers go out and come in with their bytes the other way round, answers about PCK certificates are JSON, and CRLs are
asked for by the URL that certificates name (microsoft/Azure-DCAP-Client). Azure serves older TCB info than Intel on
purpose: what is older than what is held is refused on entry, as from everybody.
"""

from typing import Annotated, Final

import msgspec

from kubenclave.errors import FormatError
from kubenclave.services.collateral.items import ItemKey, Kind
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer, PckRequest, unknown
from kubenclave.services.collateral.sources.http import Http, check_url
from kubenclave.services.collateral.sources.routes import item_of, route_of
from kubenclave.wire import pcs

METADATA: Final = "http://169.254.169.254/metadata/THIM"
CACHE: Final = "https://global.acccache.azure.net"
API_VERSION: Final = "2021-07-22-preview"
CLIENT_ID: Final = "production_client"

_HEADERS: Final = {"metadata": "true"}  # without it the metadata service answers nobody
_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_PCK_CRL: Final = "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"
_Text = Annotated[str, msgspec.Meta(max_length=64 * 1024)]


class _Certificate(msgspec.Struct, frozen=True):
    """The answer to ``pckcert``."""

    leaf: _Text = msgspec.field(name="pckCert")
    chain: _Text = msgspec.field(name="sgx-Pck-Certificate-Issuer-Chain")
    tcbm: _Text = msgspec.field(name="sgx-Tcbm")


class ThimSource:
    """THIM at ``url``. Its metadata address is plain HTTP inside the host; what it says is verified like all else."""

    def __init__(
        self,
        name: str = "thim",
        *,
        url: str = METADATA,
        api_version: str = API_VERSION,
        client_id: str = CLIENT_ID,
        total_seconds: float = 60.0,
    ) -> None:
        self.name: Final = name
        self._url: Final = check_url(url)
        self._common: Final = {"clientid": client_id, "api-version": api_version}
        self._http: Final = Http(name, url, total_seconds=total_seconds)

    async def fetch(self, key: ItemKey) -> Fetched:
        """Return one item."""
        path, parameters = route_of(key)
        if key.kind in (Kind.ROOT_CRL, Kind.PCK_CRL):
            path = "/sgx/certification/v4/pckcrl"
            parameters = {"uri": _ROOT_CRL if key.kind is Kind.ROOT_CRL else _PCK_CRL.format(ca=key.subject)}
        asked = parameters | self._common
        return item_of(key, await self._http.ask(str(key), self._url + path, parameters=asked, headers=_HEADERS))

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        """Return the certificate for the platform's TCB."""
        if not request.qe_id:
            raise unknown("PCK certificate", self.name, "caches know platforms by their QE-ID: it is not given")
        asked = {
            "qeid": request.qe_id,
            "cpusvn": request.cpu_svn.hex(),
            "pcesvn": request.pce_svn[::-1].hex(),
            "pceid": request.pce_id[::-1].hex(),
        } | self._common
        url = f"{self._url}/sgx/certification/v4/pckcert"
        answer = await self._http.ask("PCK certificate", url, parameters=asked, headers=_HEADERS)
        return read_certificate(answer.body)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def read_certificate(body: bytes) -> PckAnswer:
    """Read the answer to ``pckcert``. Raises FormatError (codes ``source.malformed``, ``pcs.*``)."""
    try:
        found = msgspec.json.decode(body, type=_Certificate)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "the answer of the source is not of the form that Azure uses",
            code="source.malformed",
            field="pckcert",
            expected="pckCert, sgx-Pck-Certificate-Issuer-Chain, sgx-Tcbm",
            found=str(error)[:200],
        ) from None
    tcbm = pcs.parse_tcbm(found.tcbm)
    entry = pcs.PckEntry(tcbm[:16] + tcbm[:15:-1], pcs.decode_leaf(found.leaf))
    return PckAnswer((entry,), pcs.decode_chain(found.chain))
