# SPDX-License-Identifier: Apache-2.0
"""What a SIMULATED platform is, in a directory: its fuses, the seed of its PKI, its EPC and the state of its TCB.

Everything else (keys, certificates, documents) follows from it, so that the platform survives restarts.
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
from kubenclave.sgx.epc import PAGE_SIZE

__all__ = ["DEFAULT_EPC", "PlatformState", "PlatformTcb", "StateFile", "owned"]

DEFAULT_EPC: Final = 128 << 20
SEED_SIZE: Final = 32

_FORMAT: Final = "kubenclave SIMULATED platform"
_VERSION: Final = 1
_NAME: Final = "platform.json"
_LIMIT: Final = 64 * 1024
_LOCK: Final = "lock"


class _Header(msgspec.Struct, frozen=True):
    """The two fields that tell whether the rest can be read."""

    format: str
    version: int


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file; bytes in hex."""

    format: str
    version: int
    provisioning_fuse: str
    seal_fuse: str
    owner_epoch: str
    seed: str
    epc_bytes: int
    tcb: PlatformTcb


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformState:
    """One platform. ``seed`` (32 bytes) is that of its PKI, ``epc_bytes`` the size of its EPC."""

    seed: bytes = field(repr=False)
    fuses: Fuses = field(repr=False)
    epc_bytes: int = DEFAULT_EPC
    tcb: PlatformTcb = PlatformTcb.UP_TO_DATE

    @classmethod
    def new(cls, epc_bytes: int = DEFAULT_EPC, *, random: Callable[[int], bytes] = os.urandom) -> Self:
        """Make a platform that nobody has met before."""
        fuses = Fuses(random(FUSE_SIZE), random(FUSE_SIZE), random(FUSE_SIZE))
        return cls(seed=random(SEED_SIZE), fuses=fuses, epc_bytes=epc_bytes)

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
        if header.version != _VERSION:
            raise FormatError(
                "the state is of another version of kubenclave",
                code="simstate.version",
                field="version",
                expected=str(_VERSION),
                found=str(header.version),
                hint="use the version that made it",
            )
        try:
            return cls._from_document(msgspec.json.decode(text, type=_Document))
        except (msgspec.MsgspecError, ValueError) as error:
            raise FormatError(f"the state is damaged: {error}", code="simstate.damaged") from None

    @classmethod
    def _from_document(cls, document: _Document) -> Self:
        fuses = Fuses(
            _bytes("provisioning_fuse", document.provisioning_fuse, FUSE_SIZE),
            _bytes("seal_fuse", document.seal_fuse, FUSE_SIZE),
            _bytes("owner_epoch", document.owner_epoch, FUSE_SIZE),
        )
        if document.epc_bytes < PAGE_SIZE:
            raise ValueError("epc_bytes is less than a page")
        seed = _bytes("seed", document.seed, SEED_SIZE)
        return cls(seed=seed, fuses=fuses, epc_bytes=document.epc_bytes, tcb=document.tcb)

    def to_json(self) -> bytes:
        """Return the content of the state file. It holds the platform's secrets."""
        document = _Document(
            format=_FORMAT,
            version=_VERSION,
            provisioning_fuse=self.fuses.provisioning.hex(),
            seal_fuse=self.fuses.seal.hex(),
            owner_epoch=self.fuses.owner_epoch.hex(),
            seed=self.seed.hex(),
            epc_bytes=self.epc_bytes,
            tcb=self.tcb,
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
    def open(cls, directory: Path, epc_bytes: int | None = None) -> Self:
        """Load the platform in ``directory``, or make it where there is none; ``epc_bytes`` changes its EPC."""
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(directory, error) from error
        try:
            state = cls.load(directory)
        except UsageError:
            state = cls.new(DEFAULT_EPC if epc_bytes is None else epc_bytes)
            state.save(directory)
        if epc_bytes is not None and epc_bytes != state.epc_bytes:
            state = replace(state, epc_bytes=epc_bytes)
            state.save(directory)
        return state

    def save(self, directory: Path) -> None:
        """Write the state file (mode 0600) in one step: a crash leaves the old one or the new one.

        Raises PlatformError when that cannot be done.
        """
        path, beside = directory / _NAME, directory / f".{_NAME}.{os.getpid()}"
        try:
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(descriptor)
            beside.rename(path)
            _sync(directory)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            raise _unusable(path, error) from error

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
