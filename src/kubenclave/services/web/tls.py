# SPDX-License-Identifier: Apache-2.0
"""TLS from files that change: new connections get what the files hold, open ones stay as they are."""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Final

import structlog

from kubenclave.errors import PlatformError

LOOK: Final = 10.0
"""Seconds between looks at the files. They are renewed days before they end."""

_Stamp = tuple[tuple[int, int, int], ...]

_log = structlog.get_logger()


class Tls:
    """The context of a server; ``client_ca`` (PEM) lets clients show a certificate, which they need not.

    Certificate (with its chain) and key are PEM. Raises PlatformError ``tls.unusable`` for files that are not.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate: Final = certificate
        self._key: Final = key
        self._client_ca: Final = client_ca
        self._stamp: _Stamp = self._look()
        self.context: Final = self._read()

    def refresh(self) -> bool:
        """Take over what the files hold now; tell whether they had changed.

        They are tried in a context of their own first, so that half a renewal harms nothing. A CA that went away from
        the file is trusted until the program is started again: OpenSSL can add to a store only. Raises PlatformError.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._read()
        self._load(self.context)
        self._stamp = stamp
        return True

    async def watch(self, seconds: float = LOOK) -> None:
        """Look at the files for ever."""
        while True:
            await asyncio.sleep(seconds)
            try:
                if self.refresh():
                    _log.info("certificate.in-use", file=str(self._certificate))
            except PlatformError as error:
                _log.error("certificate.not-taken", error=str(error), code=error.code, hint=error.hint)

    def _files(self) -> list[Path]:
        return [file for file in (self._certificate, self._key, self._client_ca) if file is not None]

    def _look(self) -> _Stamp:
        """Return what changes when a file does, also where a link to its directory is swapped, as kubelets do."""
        try:
            stats = [os.stat(file) for file in self._files()]  # noqa: PTH116 - one line for three numbers
        except OSError as error:
            raise _unusable(str(error.filename), error.strerror or str(error)) from error
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in stats)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _unusable(", ".join(map(str, self._files())), str(error)) from error


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would ask for it on the terminal."""
    raise ValueError("the key has a password")


def _unusable(files: str, found: str) -> PlatformError:
    return PlatformError(
        "the certificate cannot be used",
        code="tls.unusable",
        field=files,
        found=found,
        hint="PEM files: the certificate with its chain, and its key without a password",
    )
