# SPDX-License-Identifier: Apache-2.0
"""Which enclave the options of ``kubenclave sim run`` describe: the command itself, or files of some toolchain."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kubenclave.cli import kit
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.platform.simulated.loader import Identity
    from kubenclave.sgx.sigstruct import Sigstruct

PALS: Final = (
    "/usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so",
    "/usr/lib64/gramine/sgx/libpal.so",
    "/usr/local/lib/x86_64-linux-gnu/gramine/sgx/libpal.so",
)
"""Where Gramine's packages put the file that every enclave of it begins with."""

_MAX_EXECUTABLE: Final = 512 << 20
_MAX_SIGSTRUCT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveOptions:
    """The options as given: paths of files, ``mr_enclave`` in hex, the rest what is to be signed."""

    key: str | None
    isv_prod_id: int
    isv_svn: int
    debug: bool
    provision: bool
    manifest: str | None
    sigstruct: str | None
    libpal: str | None
    sgxs: str | None
    mr_enclave: str | None
    pages: int | None

    @property
    def described(self) -> bool:
        """Whether they describe an enclave, be it badly; else it is made of the command's executable."""
        files = (self.manifest, self.sgxs, self.mr_enclave, self.sigstruct, self.libpal, self.pages)
        return any(each is not None for each in files)

    def check(self) -> None:
        """Raise UsageError when they contradict one another."""
        kinds = [each for each in (self.manifest, self.sgxs, self.mr_enclave) if each is not None]
        if len(kinds) != 1 or self.sigstruct is None:
            raise UsageError(
                "an enclave is described by one of --manifest, --sgxs, --mr-enclave, and by --sigstruct",
                code="cli.misuse",
                hint="or by nothing: then its pages are the executable's content",
            )
        if self.key or self.isv_prod_id or self.isv_svn or self.debug or self.provision:
            raise UsageError(
                "the SIGSTRUCT given says everything itself",
                code="cli.misuse",
                hint="leave out --key, --isv-prod-id, --isv-svn, --debug and --provision",
            )
        if (self.libpal is not None and self.manifest is None) or (self.pages is not None and self.mr_enclave is None):
            raise UsageError(
                "--libpal belongs to --manifest, --pages to --mr-enclave", code="cli.misuse", hint="see sim run --help"
            )


def identity_of(executable: str, options: EnclaveOptions) -> "Identity":
    """Return the enclave that the options describe. Raises UsageError or FormatError when there is none such."""
    from kubenclave.platform.simulated import loader

    if not options.described:
        terms = loader.Terms(
            isv_prod_id=options.isv_prod_id, isv_svn=options.isv_svn, debug=options.debug, provision=options.provision
        )
        content = kit.read_input(executable, what="executable", limit=_MAX_EXECUTABLE)
        return loader.of_content(content, terms, signer(options.key))
    options.check()
    signed = kit.read_input(options.sigstruct or "", what="SIGSTRUCT", limit=_MAX_SIGSTRUCT)
    if options.manifest is not None:
        pal = kit.read_input(_pal(options.libpal), what="PAL")
        return loader.of_gramine(kit.read_input(options.manifest, what="manifest"), pal, signed)
    if options.sgxs is not None:
        return loader.of_sgxs(kit.read_input(options.sgxs, what="SGXS stream"), signed)
    pages = 1 if options.pages is None else options.pages
    return loader.of_measurement(_measurement(options.mr_enclave or ""), pages, signed)


def signer(key: str | None) -> "Callable[[Sigstruct], Sigstruct]":
    """Return what signs a SIGSTRUCT template, with the key given or the user's development key."""
    from kubenclave.platform.simulated import signing

    if key is not None:
        return partial(signing.sign, key=signing.load_key(Path(key)))
    path = signing.development_key_path(os.environ)
    return partial(signing.sign, key=signing.development_key(path))


def _measurement(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise UsageError("--mr-enclave: not a measurement", code="cli.misuse", expected="64 hexadecimal digits")
    return value


def _pal(given: str | None) -> str:
    if given is not None:
        return given
    found = next((path for path in PALS if Path(path).exists()), None)
    if found is None:
        raise UsageError(
            "Gramine is not installed here, and its PAL is part of the measurement",
            code="sim.no-pal",
            hint="give --libpal FILE: the libpal.so of the build that the SIGSTRUCT is for",
        )
    return found
