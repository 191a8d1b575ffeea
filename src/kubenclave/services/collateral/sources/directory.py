# SPDX-License-Identifier: Apache-2.0
"""A directory as a source: files that somebody carries to a site without a way out, or that a cluster mounts.

===================================================  ==================================================================
``sgx-root-crl.crl``                                 CRL of the root: DER, PEM or hexadecimal digits
``sgx-pck-crl-platform.crl`` and ``.pem``            CRL of a PCK CA, and its issuer chain
``sgx-tcb-info-00906ed50000-standard.json``, ``.pem``  document as PCS sends it, and its issuer chain
``tdx-identity-qe-early.json`` and ``.pem``          the same; likewise ``sgx-tcb-evaluation-data-numbers.json``
``sgx-fmspcs.json``                                  list of FMSPCs
``pck/<QE-ID>_<PCE-ID>.json`` and ``.pem``           answer of ``pckcerts``, and its issuer chain
any other ``*.json``                                 flat collateral of a platform (generation ``standard``)
``*.bundle``                                         signed bundle, where keys that may sign one are given
===================================================  ==================================================================

Names of items are those of ``ItemKey`` with dashes in place of colons. What stands in a file of its own goes before
flat collateral, that before bundles; of several the youngest file.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kubenclave.dcap.collateral import Collateral
from kubenclave.errors import FormatError, KubenclaveError
from kubenclave.services.collateral import bundle
from kubenclave.services.collateral.items import ItemKey, Kind
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer, PckRequest, SourceError, unknown
from kubenclave.services.collateral.sources.flat import items_of
from kubenclave.wire import pcs

_CRLS: Final = frozenset({Kind.ROOT_CRL, Kind.PCK_CRL})
_UNCHAINED: Final = frozenset({Kind.ROOT_CRL, Kind.FMSPCS})
_OWN_FILE: Final = re.compile(r"(sgx|tdx)-.*")
_ID: Final = re.compile("[0-9a-f]{1,260}")


class DirectorySource:
    """Files in ``directory``, read anew each time. ``bundle_keys`` are public keys in PEM."""

    def __init__(self, name: str, directory: Path, *, bundle_keys: Sequence[bytes] = ()) -> None:
        self.name: Final = name
        self._directory: Final = directory
        self._keys: Final = [bundle.trusted_key(pem) for pem in bundle_keys]

    async def fetch(self, key: ItemKey) -> Fetched:
        """Return one item."""
        return await asyncio.to_thread(self._fetch, key)

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        """Return the certificates of a platform that lie in ``pck``."""
        return await asyncio.to_thread(self._pck_certs, request)

    async def close(self) -> None:
        """Nothing is open."""

    def _fetch(self, key: ItemKey) -> Fetched:
        path = self._directory / (str(key).replace(":", "-") + (".crl" if key.kind in _CRLS else ".json"))
        body = self._read(path)
        if body is not None:
            chain = b"" if key.kind in _UNCHAINED else self._chain(path)
            return Fetched(pcs.crl_der(body) if key.kind in _CRLS else body, chain)
        skipped = []
        for pattern, read in (("*.json", _flat), ("*.bundle", self._bundle)):
            for each in self._files(pattern):
                try:
                    items = read(self._present(each))
                except KubenclaveError as error:  # it may be something else altogether; if nothing has it, this is told
                    skipped.append(f"{each.name} ({error.message})")
                    continue
                if key in items:
                    return items[key]
        also = f"; not read: {', '.join(skipped[:5])}" if skipped else ""
        raise unknown(str(key), self.name, f"neither {path.name} nor any other file has it{also}")

    def _pck_certs(self, request: PckRequest) -> PckAnswer:
        qe_id = request.qe_id.lower()
        path = self._directory / "pck" / f"{qe_id}_{request.pce_id.hex()}.json"
        body = self._read(path) if _ID.fullmatch(qe_id) else None
        if body is None:
            raise unknown("PCK certificates", self.name, "no file in pck is called after that platform")
        return PckAnswer(pcs.parse_pck_certs(body), self._chain(path))

    def _chain(self, path: Path) -> bytes:
        return b"".join(pcs.split_chain(self._present(path.with_suffix(".pem"))))

    def _bundle(self, content: bytes) -> dict[ItemKey, Fetched]:
        read = bundle.read(content, self._keys)
        return {item.key: Fetched(item.body, item.issuer_chain) for item in read.items}

    def _files(self, pattern: str) -> Iterator[Path]:
        """Yield the files that stand for no single item, the youngest first; bundles where keys are given."""
        if pattern == "*.bundle" and not self._keys:
            return
        try:
            found = [(each.stat().st_mtime_ns, each) for each in self._directory.glob(pattern)]
        except OSError as error:
            raise self._unreadable(self._directory, error) from error
        yield from (each for _, each in sorted(found, reverse=True) if not _OWN_FILE.fullmatch(each.name))

    def _present(self, path: Path) -> bytes:
        content = self._read(path)
        if content is None:
            raise FormatError("a file is missing", code="source.file", field=path.name, found="no such file")
        return content

    def _read(self, path: Path) -> bytes | None:
        limit = bundle.MAX_SIZE if path.suffix == ".bundle" else pcs.MAX_BODY
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except FileNotFoundError:
            if self._directory.is_dir():
                return None
            raise self._unreadable(self._directory, FileNotFoundError("no such directory")) from None
        except OSError as error:
            raise self._unreadable(path, error) from error
        if len(content) > limit:
            raise FormatError("a file is too large", code="source.file", field=path.name, expected=f"{limit} bytes")
        return content

    def _unreadable(self, path: Path, error: OSError) -> SourceError:
        return SourceError(
            "the directory of the source cannot be read",
            code="source.unreachable",
            field=f"{self.name}: {path.name}",
            found=error.strerror or str(error),
        )


def _flat(content: bytes) -> dict[ItemKey, Fetched]:
    return items_of(Collateral.from_json(content))
