# SPDX-License-Identifier: Apache-2.0
"""What a SIMULATED platform is, in a directory: its fuses, its EPC and the state of its TCB, and the seed of its PKI.

Everything else (keys, certificates, documents) follows from it, so that the platform survives restarts. A platform
whose certificates come from an issuer elsewhere has no seed (``issued`` keeps what it was given).
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import msgspec

from kubenclave.errors import FormatError, PlatformError, UsageError
from kubenclave.platform.simulated.keys import FUSE_SIZE, Fuses
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.epc import MAX_AMOUNT, PAGE_SIZE
from kubenclave.wire.simcpu import MAX_SECTIONS

__all__ = ["DEFAULT_EPC", "PlatformState", "PlatformTcb", "StateFile", "owned", "write"]

DEFAULT_EPC: Final = 128 << 20
SEED_SIZE: Final = 32

_FORMAT: Final = "kubenclave SIMULATED platform"
_VERSION: Final = 2
_VERSIONS: Final = (1, _VERSION)
_NAME: Final = "platform.json"
_LIMIT: Final = 64 * 1024
_LOCK: Final = "lock"


class _Header(msgspec.Struct, frozen=True):
    """The two fields that tell whether the rest can be read."""

    format: str
    version: int


class _Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of both versions; bytes in hex."""

    format: str
    version: int
    provisioning_fuse: str
    seal_fuse: str
    owner_epoch: str
    tcb: PlatformTcb


class _DocumentOne(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Version 1: one NUMA node, and always a root of its own."""

    seed: str
    epc_bytes: int


class _Document(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Version 2, the one that is written."""

    epc: tuple[int, ...]
    seed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformState:
    """One platform. ``seed`` (32 bytes) is that of its PKI, None where an issuer elsewhere certifies it.

    ``epc`` is the size of its EPC in bytes on each NUMA node.
    """

    seed: bytes | None = field(repr=False)
    fuses: Fuses = field(repr=False)
    epc: tuple[int, ...] = (DEFAULT_EPC,)
    tcb: PlatformTcb = PlatformTcb.UP_TO_DATE

    @property
    def epc_bytes(self) -> int:
        """EPC of all NUMA nodes together."""
        return sum(self.epc)

    @classmethod
    def new(
        cls,
        epc: tuple[int, ...] = (DEFAULT_EPC,),
        *,
        own_root: bool = True,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Self:
        """Make a platform that nobody has met before, with a PKI of its own or without."""
        fuses = Fuses(random(FUSE_SIZE), random(FUSE_SIZE), random(FUSE_SIZE))
        return cls(seed=random(SEED_SIZE) if own_root else None, fuses=fuses, epc=epc)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a state file. Raises FormatError for another program's, a later version's and a damaged one."""
        try:
            header = msgspec.json.decode(text, type=_Header)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise FormatError(
                f"not the state of a SIMULATED platform: {error}", code="simstate.foreign", expected=_FORMAT
            ) from None
        if header.format != _FORMAT:
            raise FormatError(
                "not the state of a SIMULATED platform",
                code="simstate.foreign",
                field="format",
                expected=_FORMAT,
                found=header.format[:80],
            )
        if header.version not in _VERSIONS:
            raise FormatError(
                "the state is of another version of kubenclave",
                code="simstate.version",
                field="version",
                expected=f"at most {_VERSION}",
                found=str(header.version),
                hint="use the version that made it",
            )
        try:
            if header.version == 1:
                one = msgspec.json.decode(text, type=_DocumentOne)
                return cls._from_document(one, one.seed, (one.epc_bytes,))
            document = msgspec.json.decode(text, type=_Document)
            return cls._from_document(document, document.seed, document.epc)
        except (msgspec.MsgspecError, ValueError) as error:
            raise FormatError(f"the state is damaged: {error}", code="simstate.damaged") from None

    @classmethod
    def _from_document(cls, document: _Common, seed: str | None, epc: tuple[int, ...]) -> Self:
        fuses = Fuses(
            _bytes("provisioning_fuse", document.provisioning_fuse, FUSE_SIZE),
            _bytes("seal_fuse", document.seal_fuse, FUSE_SIZE),
            _bytes("owner_epoch", document.owner_epoch, FUSE_SIZE),
        )
        if not 1 <= len(epc) <= MAX_SECTIONS or min(epc) < PAGE_SIZE or sum(epc) > MAX_AMOUNT:
            raise ValueError("the EPC of some NUMA node is less than a page, or there is too much of it")
        kept = None if seed is None else _bytes("seed", seed, SEED_SIZE)
        return cls(seed=kept, fuses=fuses, epc=epc, tcb=document.tcb)

    def to_json(self) -> bytes:
        """Return the content of the state file. It holds the platform's secrets."""
        document = _Document(
            format=_FORMAT,
            version=_VERSION,
            provisioning_fuse=self.fuses.provisioning.hex(),
            seal_fuse=self.fuses.seal.hex(),
            owner_epoch=self.fuses.owner_epoch.hex(),
            tcb=self.tcb,
            epc=self.epc,
            seed=None if self.seed is None else self.seed.hex(),
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the platform that is kept in ``directory``.

        Raises UsageError when there is none, PlatformError when it cannot be read, FormatError as ``from_json``.
        """
        path = directory / _NAME
        try:
            with path.open("rb") as file:
                text = file.read(_LIMIT)
        except FileNotFoundError as error:
            raise UsageError(
                f"no SIMULATED platform is kept in {directory}",
                code="simstate.absent",
                hint="'kubenclave sim start --state DIR' makes one; below 'kubenclave up' it is in DIR/sim",
            ) from error
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            return cls.from_json(text)
        except FormatError as error:
            error.message = f"{path}: {error.message}"
            error.hint = error.hint or "use another --state; without this file the platform's keys are lost"
            raise

    @classmethod
    def open(cls, directory: Path, epc: tuple[int, ...] | None = None, *, own_root: bool = True) -> Self:
        """Load the platform in ``directory``, or make it where there is none; ``epc`` changes its EPC.

        Raises UsageError ``simstate.own-root`` when one without a root is wanted and the one that is there has its own.
        """
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(directory, error) from error
        try:
            state = cls.load(directory)
        except UsageError:
            state = cls.new((DEFAULT_EPC,) if epc is None else epc, own_root=own_root)
            state.save(directory)
        if not own_root and state.seed is not None:
            raise UsageError(
                f"the SIMULATED platform in {directory} has a root of its own",
                code="simstate.own-root",
                hint="an issuer certifies platforms without one: use another --state",
            )
        if epc is not None and epc != state.epc:
            state = replace(state, epc=epc)
            state.save(directory)
        return state

    def save(self, directory: Path) -> None:
        """Write the state file (mode 0600) in one step: a crash leaves the old one or the new one.

        Raises PlatformError when that cannot be done.
        """
        write(directory / _NAME, self.to_json())

    def with_tcb(self, tcb: PlatformTcb) -> Self:
        """Return the same platform in another state of its TCB."""
        return replace(self, tcb=tcb)


class StateFile:
    """The state of a running platform, read again whenever somebody has changed it (``kubenclave sim tcb``)."""

    def __init__(self, directory: Path, state: PlatformState) -> None:
        self._directory: Final = directory
        self._state = state
        self._seen = self._identity()

    def current(self) -> PlatformState:
        """Return the state as it is now.

        Raises what ``PlatformState.load`` does, once for each change; the state from before it goes on then.
        """
        identity = self._identity()
        if identity != self._seen:
            self._seen = identity
            self._state = PlatformState.load(self._directory)
        return self._state

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            status = (self._directory / _NAME).stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """Own the platform inside the block. Raises UsageError when another simulator runs with it."""
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"a SIMULATED platform already runs with {directory}",
                code="simstate.in-use",
                hint="use it, or start another one with another --state",
            ) from error
        yield
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes) -> None:
    """Write a file (mode 0600) in one step. Raises PlatformError when that cannot be done."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        beside.rename(path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise _unusable(path, error) from error


def _bytes(name: str, text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""  # the text itself may be most of a secret
    if len(value) != size:
        raise ValueError(f"{name} is not {size} bytes in hex")
    return value


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError) -> PlatformError:
    return PlatformError(f"cannot use {path}: {error.strerror or error}", code="simstate.unusable")
