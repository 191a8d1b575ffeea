# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral bundle``: collateral for a site without a way out, signed by whoever fetched it."""

import asyncio
import datetime as dt
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.state import COLLATERAL, state_option
from kubenclave.cli.trust import Trust, trust_options
from kubenclave.errors import KubenclaveError, PlatformError, UsageError

if TYPE_CHECKING:
    from kubenclave.services.collateral.bundle import Bundle, Key
    from kubenclave.services.collateral.items import Item, ItemKey


@click.group(
    "bundle",
    epilog=kit.examples(
        "openssl genpkey -algorithm ed25519 -out key.pem && chmod 600 key.pem",
        "openssl pkey -in key.pem -pubout -out public.pem",
        "kubenclave collateral bundle create --fmspc 00906ed50000 --key key.pem --out site.bundle",
        "kubenclave collateral bundle import site.bundle --trusted-key public.pem --state DIR",
    ),
)
def command() -> None:
    """Carry collateral to a site without a way out."""


def _trusted_option(function: Any) -> Any:
    return click.option(
        "--trusted-key",
        "trusted",
        type=evidence.FILE,
        multiple=True,
        metavar="FILE",
        help="Public key of a maker of bundles, PEM; repeatable.",
    )(function)


@command.command(
    "create",
    short_help="Fetch, verify and sign collateral.",
    epilog=kit.examples(
        "kubenclave collateral bundle create --fmspc 00906ed50000 --fmspc 00606a000000 --key key.pem --out site.bundle",
        "kubenclave collateral bundle create --all --source pccs=https://pccs.example --key key.pem --out s.bundle",
        "kubenclave collateral bundle create --state kubenclave-collateral --key key.pem --out s.bundle",
    ),
)
@click.option("--fmspc", "families", multiple=True, metavar="HEX", help="A family of platforms; repeatable.")
@click.option("--all", "every", is_flag=True, help="All families that the source lists.")
@state_option(None, "Instead: all that a collateral service here holds.")
@trust_options
@click.option("--key", "key_path", type=evidence.FILE, required=True, metavar="FILE", help="Private key, PEM.")
@click.option("--out", type=evidence.FILE, required=True, metavar="FILE", help="Where the bundle goes.")
@kit.output_option
def create(
    *, families: tuple[str, ...], every: bool, state: Path | None, trust: Trust, key_path: str, out: str
) -> None:
    """Put all collateral of some families, SGX and TDX, standard and early, into one signed file.

    Everything is verified before it is signed. What no source has (TDX for families without it) is left out and said.
    """
    from kubenclave.services.collateral import bundle
    from kubenclave.services.collateral.service import items_in
    from kubenclave.wire import pcs

    if (bool(families) + every + (state is not None)) != 1:
        raise UsageError("say of what", code="cli.misuse", hint="--fmspc HEX, --all, or --state DIR")
    key = bundle.signing_key(_private(key_path))
    anchor, now = evidence.load_anchor(trust.root), dt.datetime.now(dt.UTC)
    missing: list[str] = []
    if state is not None:
        items = [item for item in items_in(state) if item.next_update > now]
    else:
        items, missing = asyncio.run(_fetched(trust, [pcs.parse_fmspc(each) for each in families], now))
    content = bundle.write(items, key, anchor=anchor, created=now)
    kit.write_output(out, content, what="bundle")
    made = bundle.read(content, [key])
    document = {"out": out, **_described(made), "left_out": missing}
    kit.emit(document, "\n".join([f"bundle in {out}", _text(made), *(f"left out: {one}" for one in missing)]))


@command.command(
    "show",
    short_help="Show what is in a bundle, who signed it, when it ends.",
    epilog=kit.examples("kubenclave collateral bundle show site.bundle --trusted-key public.pem"),
)
@click.argument("file", type=evidence.FILE)
@_trusted_option
@kit.output_option
def show(*, file: str, trusted: tuple[str, ...]) -> None:
    """Show what FILE (- for stdin) holds. Exit code 1 when nobody trusted has signed it, or it has ended."""
    opened = _opened(file, trusted)
    document = _described(opened)
    kit.emit(document, _text(opened))
    kit.finish(kit.ExitCode.GOOD if document["current"] else kit.ExitCode.REFUSED)


@command.command(
    "import",
    short_help="Verify a bundle and hand it to the collateral service here.",
    epilog=kit.examples(
        "kubenclave collateral bundle import site.bundle --trusted-key public.pem",
        "kubenclave collateral bundle import s.bundle --trusted-key public.pem --root root.der    SIMULATED",
    ),
)
@click.argument("file", type=evidence.FILE)
@_trusted_option
@state_option(COLLATERAL, "State of the service.")
@evidence.root_option
@click.option("--dangerously-allow-rollback", is_flag=True, help="Take older collateral than is held.")
@kit.output_option
def import_(
    *, file: str, trusted: tuple[str, ...], state: Path, root_path: str | None, dangerously_allow_rollback: bool
) -> None:
    """Verify all of FILE (- for stdin) and store it at once, or nothing; a running service serves it from then on.

    Exit code 1 when something in it does not hold, has ended, or is older than what is held.
    """
    from kubenclave.services.collateral.intake import Bundles
    from kubenclave.services.collateral.service import DATABASE
    from kubenclave.services.collateral.store import Store
    from kubenclave.services.database import Database

    opened = _opened(file, trusted)
    anchor = evidence.load_anchor(None if root_path is None else evidence.load_root(root_path))
    now = dt.datetime.now(dt.UTC)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(state / DATABASE)
    try:
        store = Store(database, lambda: now)
        taken = Bundles(database, store, anchor).take_in(
            opened, now, dangerously_allow_rollback=dangerously_allow_rollback
        )
    finally:
        database.close()
    relaxations = ["dangerously_allow_rollback"] if dangerously_allow_rollback else []
    for each in relaxations:
        kit.warn(f"RELAXED  {each}")
    document = {**_described(opened), "stored": len(taken), "state": str(state), "relaxations": relaxations}
    kit.emit(document, f"{len(taken)} items stored in {state}\n{_text(opened)}")


def _private(path: str) -> bytes:
    """Return a private key that nobody else can read. Raises PlatformError ``bundle.key-mode`` for others."""
    if path != "-":
        try:
            mode = stat.S_IMODE(Path(path).stat().st_mode)
        except OSError:
            mode = 0  # reading it says what is wrong
        if mode & 0o077:
            raise PlatformError(
                "others can read the private key",
                code="bundle.key-mode",
                field=path,
                expected="mode 0600",
                found=f"mode {mode:04o}",
                hint=f"chmod 600 {path}",
            )
    return kit.read_input(path, what="private key", limit=1 << 16)


def _opened(path: str, trusted: Sequence[str]) -> "Bundle":
    from kubenclave.services.collateral import bundle

    keys: list[Key] = [bundle.trusted_key(kit.read_input(each, what="public key", limit=1 << 16)) for each in trusted]
    return bundle.read(kit.read_input(path, what="bundle", limit=bundle.MAX_SIZE), keys)


async def _fetched(trust: Trust, families: Sequence[str], now: dt.datetime) -> "tuple[list[Item], list[str]]":
    """Return all there is of some families, of all without any; and what no source has.

    Raises what the sources raise for what every verifier needs: revocation lists, TCB info and identity of SGX.
    """
    from kubenclave.services.collateral.direct import Direct, verified_under
    from kubenclave.services.collateral.items import ItemKey, Kind
    from kubenclave.wire import pcs

    direct = Direct(trust.make(), verified_under(evidence.load_anchor(trust.root), now))
    try:
        listed = list(families)
        if not listed:
            listed = [each.fmspc.lower() for each in pcs.parse_fmspcs((await direct.get(ItemKey(Kind.FMSPCS))).body)]
        needed, wanted = _keys(listed)
        items = list(await asyncio.gather(*map(direct.get, needed)))
        results = await asyncio.gather(*map(direct.get, wanted), return_exceptions=True)
    finally:
        await direct.close()
    missing = []
    for key, result in zip(wanted, results, strict=True):
        if isinstance(result, KubenclaveError):
            missing.append(f"{key}: {result.message} [{result.code}]")
        elif isinstance(result, BaseException):
            raise result
        else:
            items.append(result)
    return items, missing


def _keys(families: Sequence[str]) -> "tuple[list[ItemKey], list[ItemKey]]":
    """Return what has to be there, and what is taken along where it is."""
    from kubenclave.dcap.pckext import PckCa
    from kubenclave.services.collateral.items import EARLY, ROOT_CRL, STANDARD, ItemKey, Kind, Tee

    infos = [ItemKey.tcb_info(Tee.SGX, each) for each in families]
    needed = [ROOT_CRL, *map(ItemKey.pck_crl, PckCa), ItemKey.identity(Tee.SGX), *infos]
    wanted = [
        ItemKey.identity(tee, enclave, update)
        for tee, enclave in ((Tee.SGX, "qe"), (Tee.SGX, "qve"), (Tee.SGX, "qae"), (Tee.TDX, "qe"))
        for update in (STANDARD, EARLY)
    ]
    wanted += [ItemKey.tcb_info(tee, each, update) for each in families for tee in Tee for update in (STANDARD, EARLY)]
    wanted += [ItemKey(Kind.EVALUATION_NUMBERS, tee=tee) for tee in Tee]
    return needed, [key for key in wanted if key not in needed]


def _described(opened: "Bundle") -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    return {
        "signer": opened.signer,
        "created": evidence.zulu(opened.created),
        "horizon": evidence.zulu(opened.horizon),
        "current": now <= opened.horizon,
        "root": opened.root,
        "simulated": opened.simulated,
        "items": [
            {
                "item": str(item.key),
                "issued": evidence.zulu(item.issued),
                "next_update": evidence.zulu(item.next_update),
                "tcb_evaluation_data_number": item.number or None,
                "source": item.source,
            }
            for item in opened.items
        ],
    }


def _text(opened: "Bundle") -> str:
    document = _described(opened)
    state = "current" if document["current"] else click.style("ENDED", fg="red", bold=True)
    lines = [
        f"signed by {opened.signer} at {document['created']}",
        f"root {opened.root}{click.style(' (SIMULATED)', fg='yellow') if opened.simulated else ''}",
        f"{state}: its first item ends {document['horizon']}",
    ]
    rows = [("ITEM", "ISSUED", "NEXT UPDATE", "NUMBER")]
    rows += [
        (kit.printable(one["item"]), one["issued"], one["next_update"], str(one["tcb_evaluation_data_number"] or "-"))
        for one in document["items"]
    ]
    return "\n".join([*lines, kit.table(rows)])
