# SPDX-License-Identifier: Apache-2.0
"""Options that say whose evidence and collateral counts, and where collateral comes from: alike for all commands."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.collateral.sources.base import Source

KINDS: Final = ("intel", "thim", "pccs", "dir", "simulated", "none")
_FILE: Final = click.Path(path_type=Path)


class SourceName(click.ParamType[tuple[str, str]]):
    """A source of collateral: ``intel``, ``thim``, ``pccs=URL``, ``dir=PATH``, ``simulated=PATH``, ``none``."""

    name = "SOURCE"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return kind and place; fails as click wants it."""
        if isinstance(value, tuple):
            return value
        kind, _, place = value.partition("=")
        if kind not in KINDS or (kind in {"pccs", "dir", "simulated"}) is not bool(place):
            self.fail(f"{value!r} is no source: intel, thim, pccs=URL, dir=PATH, simulated=PATH or none", param, ctx)
        return kind, place


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose evidence and collateral counts: ``root`` in DER, None for Intel's; ``sources`` as given.

    ``source_ca`` is the CA of sources ``pccs``, ``api_key`` holds the key for ``intel``, ``bundle_keys`` say who may
    sign the bundles of ``dir``.
    """

    root: bytes | None
    sources: Sequence[tuple[str, str]]
    source_ca: Path | None = None
    api_key: Path | None = None
    bundle_keys: tuple[str, ...] = ()

    def make(self) -> "list[Source]":
        """Return the sources, in the order in which they are asked. Raises UsageError for a URL that is none."""
        return [self._source(kind, place) for kind, place in self.sources if kind != "none"]

    def _source(self, kind: str, place: str) -> "Source":
        import datetime as dt

        from kubenclave.services.collateral.sources.directory import DirectorySource
        from kubenclave.services.collateral.sources.intel import IntelSource
        from kubenclave.services.collateral.sources.pccs import PccsSource
        from kubenclave.services.collateral.sources.simulated import SimulatedSource
        from kubenclave.services.collateral.sources.thim import ThimSource

        if kind == "simulated":
            return SimulatedSource(Path(place), now=lambda: dt.datetime.now(dt.UTC))
        if kind == "dir":
            keys = [kit.read_input(each, what="public key", limit=1 << 16) for each in self.bundle_keys]
            name = Path(place).resolve().name  # anybody may read the status: no path of this machine
            return DirectorySource(f"dir={name}", Path(place), bundle_keys=keys)
        if kind == "pccs":
            return PccsSource(f"pccs={place}", url=place, ca_file=self.source_ca)
        return ThimSource() if kind == "thim" else IntelSource(api_key_file=self.api_key)


_OPTIONS: Final = (
    click.option(
        "--source",
        "sources",
        type=SourceName(),
        multiple=True,
        help="Where collateral comes from: intel, thim, pccs=URL, dir=PATH, simulated=PATH; repeatable, in order. "
        "none: it is brought.",
    ),
    click.option("--source-ca", type=_FILE, metavar="FILE", help="CA of a source pccs=URL, PEM."),
    click.option("--api-key-file", "api_key", type=_FILE, metavar="FILE", help="Holds the subscription key for intel."),
    click.option(
        "--trusted-key",
        "bundle_keys",
        type=evidence.FILE,
        multiple=True,
        metavar="FILE",
        help="Who may sign bundles in dir=PATH: PEM; repeatable.",
    ),
    click.option(
        "--simulated-state",
        type=_FILE,
        metavar="DIR",
        help="State of a SIMULATED platform: its root instead of Intel's, and its collateral.",
    ),
    evidence.root_option,
)


def trust_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say whom to trust and ask, and hand them to it as ``trust``."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        trust = _trust(*(given.pop(name) for name in ("sources", "simulated_state", "root_path")))
        named = {name: given.pop(name) for name in ("source_ca", "api_key", "bundle_keys")}
        function(trust=replace(trust, **named), **given)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _trust(sources: Sequence[tuple[str, str]], simulated_state: Path | None, root_path: str | None) -> Trust:
    if simulated_state is not None and root_path is not None:
        raise UsageError("--simulated-state and --root both name a root", code="cli.misuse", hint="give one of them")
    if simulated_state is not None:
        from kubenclave.platform.simulated.provisioning import provisioning_of
        from kubenclave.platform.simulated.state import PlatformState

        root = provisioning_of(PlatformState.load(simulated_state), simulated_state).root_der
        return Trust(root=root, sources=sources or [("simulated", str(simulated_state))])
    if root_path is None:
        return Trust(root=None, sources=sources or [("intel", "")])
    if not sources:
        raise UsageError(
            "nobody was named who has collateral of this root",
            code="cli.misuse",
            hint="give --source dir=PATH, or --source pccs=URL; --source none where it is brought",
        )
    return Trust(root=evidence.load_root(root_path), sources=sources)


def rollback_option(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--dangerously-allow-rollback``, as ``rollback``."""
    return click.option(
        "--dangerously-allow-rollback",
        "rollback",
        is_flag=True,
        help="Sources may put older collateral in place of what is held.",
    )(function)


def warn_rollback(*, rollback: bool) -> None:
    """Say that old collateral counts: it may know less that speaks against a platform."""
    if rollback:
        kit.warn("RELAXED  dangerously_allow_rollback: sources may put older collateral in place of what is held")


def warn_simulated(*, simulated: bool) -> None:
    """Say what nobody should overlook."""
    if simulated:
        kit.warn("SIMULATED root: what this service says proves nothing about hardware")
