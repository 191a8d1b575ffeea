# SPDX-License-Identifier: Apache-2.0
"""Where collateral of a verdict comes from: a file, a PCCS, a signed bundle, a collateral service of this machine."""

import datetime as dt
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kubenclave.cli import kit
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.dcap.collateral import Collateral
    from kubenclave.services.collateral.items import Item, ItemKey
    from kubenclave.services.collateral.sources.base import Source

_PREFIX: Final = "origin_"  # a command may have a FILE or a --state of its own
_FILE: Final = click.Path(allow_dash=True)
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the options say; exactly one of ``file``, ``pccs``, ``bundle`` and ``state`` is set."""

    file: str | None = None
    pccs: str | None = None
    pccs_ca: str | None = None
    bundle: str | None = None
    trusted_keys: tuple[str, ...] = ()
    state: str | None = None
    offline: bool = False
    update: str | None = None

    def check(self) -> None:
        """Raise UsageError where that is not what they say."""
        named = [each for each in (self.file, self.pccs, self.bundle, self.state) if each is not None]
        if self.offline and self.pccs is not None:
            raise _misuse("--offline asks nobody, --pccs does")
        if len(named) != 1:
            known = "--collateral FILE, --bundle FILE or --collateral-state DIR"
            hint = f"offline: {known}" if self.offline else f"{known}, or --pccs URL"
            raise _misuse("say where the collateral comes from, once", hint)
        if (self.bundle is None) is not (not self.trusted_keys):
            raise _misuse("--bundle and --trusted-key belong together")
        if self.pccs_ca is not None and self.pccs is None:
            raise _misuse("--pccs-ca is of --pccs")
        if self.update is not None and self.file is not None:
            raise _misuse("a file has one generation: --update is for the others")

    def load(self, quote: bytes, pck_chain: bytes | None) -> "Collateral":
        """Return the collateral that a quote needs; nothing of it is verified.

        Raises what the place raises: UsageError for a file, TrustError for a bundle that nobody trusted has signed,
        UnreachableError where a PCCS does not answer or nobody has an item.
        """
        from kubenclave.dcap.collateral import Collateral

        if self.file is not None:
            collateral = Collateral.from_json(kit.read_input(self.file, what="collateral"))
            said = None
        else:
            import asyncio

            collateral, said = asyncio.run(self._assemble(quote, pck_chain))
        if self.offline:
            kit.say("offline: nobody was asked over the network")
        if said is not None:
            kit.say(f"collateral from {kit.printable(said)}")
        return collateral

    async def _assemble(self, quote: bytes, pck_chain: bytes | None) -> "tuple[Collateral, str]":
        from kubenclave.services.collateral.assemble import collateral_for, needs_of
        from kubenclave.services.collateral.direct import Direct, as_it_comes
        from kubenclave.wire import pcs

        tee, fmspc, ca = needs_of(quote, pck_chain)
        number = self.update if self.update is not None and self.update.isdecimal() else None
        update = pcs.parse_update(None if number is not None else self.update, number)
        if self.pccs is None:
            items, said = self._bundled() if self.bundle is not None else self._held()

            async def get(key: "ItemKey") -> "Item":
                return _present(items, key, said)

            return await collateral_for(get, tee=tee, fmspc=fmspc, ca=ca, update=update), said
        direct = Direct([self._source(self.pccs)], as_it_comes(dt.datetime.now(dt.UTC)))
        try:
            found = await collateral_for(direct.get, tee=tee, fmspc=fmspc, ca=ca, update=update)
        finally:
            await direct.close()
        return found, f"PCCS {self.pccs}"

    def _source(self, url: str) -> "Source":
        """Return what is at a URL: Intel's service, whose root CRL is elsewhere, is told from caches by its name."""
        from urllib.parse import urlsplit

        from kubenclave.services.collateral.sources.intel import SERVICE, IntelSource
        from kubenclave.services.collateral.sources.pccs import PccsSource

        if urlsplit(url).hostname == urlsplit(SERVICE).hostname:
            return IntelSource()
        return PccsSource("pccs", url=url, ca_file=None if self.pccs_ca is None else Path(self.pccs_ca))

    def _bundled(self) -> "tuple[dict[ItemKey, Item], str]":
        from kubenclave.services.collateral import bundle

        keys = [
            bundle.trusted_key(kit.read_input(each, what="public key", limit=1 << 16)) for each in self.trusted_keys
        ]
        opened = bundle.read(kit.read_input(self.bundle or "", what="bundle", limit=bundle.MAX_SIZE), keys)
        said = f"the bundle of {opened.created:%Y-%m-%dT%H:%M:%SZ}, signed by {opened.signer}"
        return {item.key: item for item in opened.items}, said

    def _held(self) -> "tuple[dict[ItemKey, Item], str]":
        from kubenclave.services.collateral.service import items_in

        return {item.key: item for item in items_in(Path(self.state or ""))}, f"the collateral service in {self.state}"


_OPTIONS: Final = (
    click.option(
        "--collateral",
        f"{_PREFIX}file",
        type=_FILE,
        metavar="FILE",
        help="Collateral as one JSON object, - for stdin.",
    ),
    click.option(
        "--pccs", f"{_PREFIX}pccs", metavar="URL", help="Or: fetch what the quote needs from a PCCS, or Intel's PCS."
    ),
    click.option("--pccs-ca", f"{_PREFIX}pccs_ca", type=_FILE, metavar="FILE", help="CA of its certificate, PEM."),
    click.option("--bundle", f"{_PREFIX}bundle", type=_FILE, metavar="FILE", help="Or: a signed bundle of collateral."),
    click.option(
        "--trusted-key",
        f"{_PREFIX}trusted_keys",
        type=_FILE,
        multiple=True,
        metavar="FILE",
        help="Who may sign bundles: PEM.",
    ),
    click.option(
        "--collateral-state",
        f"{_PREFIX}state",
        type=click.Path(),
        metavar="DIR",
        help="Or: what a collateral service of this machine holds.",
    ),
    click.option("--offline", f"{_PREFIX}offline", is_flag=True, help="Ask nobody over the network, and say so."),
    click.option(
        "--update",
        f"{_PREFIX}update",
        metavar="GENERATION",
        help="standard (default), early, or a TCB evaluation data number.",
    ),
)


def options(function: _Function) -> Callable[..., Any]:
    """Give a command the options that say where collateral comes from, and hand them to it as ``collateral``."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        origin = Origin(**{name: given.pop(_PREFIX + name) for name in Origin.__dataclass_fields__})
        origin.check()
        return function(collateral=origin, **given)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _present(items: "dict[ItemKey, Item]", key: "ItemKey", where: str) -> "Item":
    from kubenclave.services.collateral.sources.base import unknown

    if key not in items:
        raise unknown(str(key), where)
    return items[key]


def _misuse(message: str, hint: str | None = None) -> UsageError:
    return UsageError(message, code="cli.misuse", hint=hint)
