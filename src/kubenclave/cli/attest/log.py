# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest log``: check receipts of an attestation service, and watch its log for what it must not do."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.remote import Remote, remote_options
from kubenclave.errors import FormatError, TrustError, UnreachableError, UsageError

if TYPE_CHECKING:
    from kubenclave.cli.attest.watch import Keep
    from kubenclave.services.attestation.transparency.checkpoint import Checkpoint, LogKey

_MAX_RECEIPT: Final = 1 << 20
_PAGE: Final = 1000

_key_option = click.option(
    "--key", "key_text", required=True, metavar="KEY", help="The log's verifier key: NAME+ID+BASE64, or a file of it."
)


@click.group(
    "log",
    epilog=kit.examples(
        "kubenclave attest log head --url https://attest.example",
        "kubenclave attest log verify answer.json --key log.key",
        "kubenclave attest log monitor --url https://attest.example --key log.key --memory log.json",
    ),
)
def command() -> None:
    """Check receipts, read the log of verdicts, and watch that it only grows."""


@command.command("head", epilog=kit.examples("kubenclave attest log head --url https://attest.example"))
@remote_options()
@kit.output_option
def head(remote: Remote) -> None:
    """Show the signed head of the log and the key it is said to be signed with.

    Take the key over only after comparing it with what the operator has published elsewhere.
    """
    from kubenclave.services.attestation.transparency.checkpoint import LogKey, open_checkpoint

    said = _object(remote.get("/v1/log/head"), "key", "note")
    checkpoint = open_checkpoint(said["note"], LogKey.parse(said["key"]))
    rows = [
        ("log", kit.printable(checkpoint.origin)),
        ("entries", str(checkpoint.size)),
        ("root", checkpoint.root.hex()),
        ("key", kit.printable(said["key"])),
    ]
    kit.emit({**_described(checkpoint), "key": said["key"], "note": said["note"]}, kit.table(rows))


@command.command("show", epilog=kit.examples("kubenclave attest log show --url https://attest.example --start 100"))
@remote_options()
@click.option("--start", type=click.IntRange(min=0), default=0, help="First entry.")
@click.option("--count", type=click.IntRange(1, _PAGE), default=20, show_default=True, help="How many.")
@kit.output_option
def show(*, remote: Remote, start: int, count: int) -> None:
    """Show entries of the log as the service gives them; 'monitor' is what checks them."""
    from kubenclave.cli.attest.watch import read_entry

    said = remote.get("/v1/log/entries", start=start, end=start + count)
    entries = [read_entry(text) for text in _texts(said)]
    lines: list[tuple[str, ...]] = [("PLACE", "AT", "VERDICT", "TCB STATUS", "POLICY", "REMARKS")]
    lines += [(str(start + number), *_line(entry)) for number, entry in enumerate(entries)]
    kit.emit({"start": start, "entries": entries}, kit.table(lines))


@command.command(
    "verify",
    epilog=kit.examples(
        "kubenclave attest log verify answer.json --key log.key",
        "kubenclave attest log verify receipt.json --key 'attest.example+1f2e3d4c+AV...'",
    ),
)
@click.argument("receipt", type=evidence.FILE)
@_key_option
@kit.output_option
def verify(receipt: str, key_text: str) -> None:
    """Check RECEIPT (a file, - for stdin) without the service: the answer that it came in, or its 'receipt' alone.

    Exit code 0 when a head that the key signed has the entry, 1 when not.
    """
    from kubenclave.cli.attest.watch import read_entry
    from kubenclave.dcap.collateral import load_json
    from kubenclave.services.attestation.transparency.checkpoint import InclusionReceipt

    document = load_json(kit.read_input(receipt, what="receipt", limit=_MAX_RECEIPT), "receipt")
    if isinstance(document, dict) and isinstance(document.get("receipt"), dict):
        document = document["receipt"]
    said = _object(document, "entry", "proof")
    read = InclusionReceipt.parse(said["proof"])
    checkpoint = read.check(said["entry"].encode("utf-8", "surrogatepass"), _key(key_text))
    _show_included(read.index, checkpoint, read_entry(said["entry"]))


@command.command(
    "prove",
    epilog=kit.examples("kubenclave attest log prove token.jwt --url URL --key log.key --out receipt.json"),
)
@click.argument("token", type=evidence.FILE)
@remote_options()
@_key_option
@click.option("--out", type=evidence.FILE, metavar="FILE", help="Where the receipt goes, for 'verify'.")
@kit.output_option
def prove(*, token: str, remote: Remote, key_text: str, out: str | None) -> None:
    """Have the service prove that the entry which TOKEN names is in its log, and keep the proof as a receipt.

    For whoever has a token and no receipt, as clients of Azure Attestation. The token's signature is for 'attest token
    verify'. Exit code 0 when a head that the key signed has the entry, 1 when not.
    """
    from kubenclave.cli.attest.watch import read_entry
    from kubenclave.dcap import merkle
    from kubenclave.dcap.token.compact import CompactToken
    from kubenclave.services.attestation.transparency.checkpoint import InclusionReceipt, open_checkpoint

    index, leaf, jti = _named(CompactToken.parse(kit.read_input(token, what="token")).claims)
    key = _key(key_text)
    note = _object(remote.get("/v1/log/head"), "note")["note"]
    size = open_checkpoint(note, key).size
    texts = _texts(remote.get("/v1/log/entries", start=index, end=index + 1)) if index < size else []
    if len(texts) != 1 or merkle.leaf_hash(texts[0].encode("utf-8", "surrogatepass")) != leaf:
        raise _other_entry(index, size)
    entry = read_entry(texts[0])
    if entry.get("jti") != jti:
        raise _other_entry(index, size)
    proof = _hashes(remote.get("/v1/log/proof/inclusion", index=index, size=size))
    receipt = InclusionReceipt(index, proof, note)
    checkpoint = receipt.check(texts[0].encode(), key)
    if out is not None:
        kit.write_output(out, json.dumps({"entry": texts[0], "proof": receipt.text}).encode(), what="receipt")
    _show_included(index, checkpoint, entry)


@command.command(
    "collateral",
    epilog=kit.examples(
        "kubenclave attest log collateral token.jwt --url https://attest.example --out collateral.json",
        "kubenclave quote verify quote.bin --collateral collateral.json --at 1779000000    its 'iat'",
    ),
)
@click.argument("token", type=evidence.FILE)
@remote_options()
@click.option("--out", type=evidence.FILE, metavar="FILE", required=True, help="Where the collateral goes.")
@kit.output_option
def collateral(*, token: str, remote: Remote, out: str) -> None:
    """Fetch the collateral that the verdict of TOKEN rested on, to judge the quote once more.

    What comes has to have the digest that the token names; the token's signature is for 'attest token verify'.
    """
    from kubenclave.dcap.collateral import Collateral
    from kubenclave.dcap.token.compact import CompactToken

    digest = _rested_on(CompactToken.parse(kit.read_input(token, what="token")).claims)
    fetched = Collateral.from_json(json.dumps(remote.get(f"/v1/log/collateral/{digest}")))
    if fetched.digest.hex() != digest:
        raise TrustError(
            "the service gives other collateral than the token names",
            code="log.other-collateral",
            field="kubenclave.collateral.digest",
            expected=digest,
            found=fetched.digest.hex(),
        )
    kit.write_output(out, fetched.to_json().encode(), what="collateral")
    kit.emit({"digest": digest, "file": out}, f"collateral {digest} in {kit.printable(out)}")


@command.command(
    "monitor",
    epilog=kit.examples(
        "kubenclave attest log monitor --url https://attest.example --key log.key --memory log.json",
        "kubenclave attest log monitor --url URL --key log.key --memory log.json --entries entries.jsonl",
    ),
)
@remote_options()
@_key_option
@click.option(
    "--memory", type=click.Path(path_type=Path), required=True, metavar="FILE", help="What was seen, for the next time."
)
@click.option(
    "--entries",
    "entries_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add new entries here, a line each.",
)
@kit.output_option
def monitor(*, remote: Remote, key_text: str, memory: Path, entries_path: Path | None) -> None:
    """Fetch every new entry, rebuild the tree, and compare it with the signed head and with what was seen before.

    For a timer, by somebody else than who runs the service. Exit code 1 when the log was rewritten, cut, or does not
    hold what its head says; both heads are then kept beside FILE.
    """
    from kubenclave.cli.attest.watch import Watch

    watch = Watch.load(memory, _key(key_text))
    before, note = watch.tree.size, _object(remote.get("/v1/log/head"), "note")["note"]

    def fetch(start: int, end: int) -> list[str]:
        return _texts(remote.get("/v1/log/entries", start=start, end=min(end, start + _PAGE)))

    with _appending(entries_path) as keep:
        checkpoint = watch.follow(note, fetch, keep)
    watch.save()
    new = checkpoint.size - before
    kit.emit({**_described(checkpoint), "new": new}, f"{checkpoint.size} entries, {new} new: the log only grew")


def _key(text: str) -> "LogKey":
    """Return a key that stands in the option itself, or in the file that it names."""
    from kubenclave.services.attestation.transparency.checkpoint import LogKey

    if "+" not in text:
        text = kit.read_input(text, what="key", limit=_MAX_RECEIPT).decode("utf-8", "replace")
    return LogKey.parse(text)


def _show_included(index: int, checkpoint: "Checkpoint", entry: dict[str, Any]) -> None:
    names = ("at", "verdict", "tcb_status", "fresh", "simulated", "jti", "evidence")
    rows = [("in the log", f"entry {index} of {checkpoint.size}, {kit.printable(checkpoint.origin)}")]
    rows += [(name.replace("_", " "), kit.printable(str(entry[name]))) for name in names if name in entry]
    kit.emit({"included": True, "index": index, "head": _described(checkpoint), "entry": entry}, kit.table(rows))


def _named(claims: dict[str, Any]) -> tuple[int, bytes, Any]:
    """Return place, hash and token id of the entry that a token names. Raises FormatError ``token.malformed``."""
    try:
        place = claims["kubenclave"]["log"]
        index, leaf = place["index"], bytes.fromhex(place["leaf"])
    except (KeyError, TypeError, ValueError):
        index, leaf = None, b""
    if type(index) is not int or not 0 <= index < 1 << 53:
        raise FormatError(
            "the token names no entry of a log",
            code="token.malformed",
            expected="kubenclave.log with index and leaf",
            hint="tokens of verdicts have one; those about policies and keys do not",
        )
    return index, leaf, claims.get("jti")


def _rested_on(claims: dict[str, Any]) -> str:
    """Return the digest, in hex, of the collateral that a token names. Raises FormatError ``token.malformed``."""
    try:
        digest = bytes.fromhex(claims["kubenclave"]["collateral"]["digest"]).hex()
    except (KeyError, TypeError, ValueError):
        raise FormatError(
            "the token names no collateral",
            code="token.malformed",
            expected="kubenclave.collateral.digest",
            hint="tokens of verdicts have one; those about policies and keys do not",
        ) from None
    return digest


def _other_entry(index: int, size: int) -> TrustError:
    return TrustError(
        "the log does not have the entry that the token names",
        code="log.other-entry",
        field=f"entry {index} of {size}",
        hint="keep token and head: the log was changed, or the token is another service's",
    )


def _hashes(document: Any) -> tuple[bytes, ...]:
    """Return the hashes of a proof. Raises FormatError ``receipt.malformed``."""
    try:
        return tuple(bytes.fromhex(each) for each in document["proof"])
    except (KeyError, TypeError, ValueError):
        raise FormatError("not a proof", code="receipt.malformed", expected="hashes in hex") from None


def _described(checkpoint: "Checkpoint") -> dict[str, Any]:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _object(document: Any, *names: str) -> dict[str, Any]:
    """Return an object that has texts of these names. Raises FormatError ``receipt.malformed``."""
    if not isinstance(document, dict) or not all(isinstance(document.get(name), str) for name in names):
        raise FormatError(
            "not what a log answers", code="receipt.malformed", expected=f"an object with {', '.join(names)}"
        )
    return document


def _texts(document: Any) -> list[str]:
    """Return a page of entries. Raises UnreachableError ``service.unreachable`` for anything else."""
    entries = document.get("entries") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UnreachableError("the service answers with something else than entries", code="service.unreachable")
    return entries


def _line(entry: dict[str, Any]) -> tuple[str, ...]:
    policy = entry.get("policy")
    name = policy.get("name", "") if isinstance(policy, dict) else "none"
    remarks = [each for each in ("simulated", "fresh", "draft") if entry.get(each) is True]
    remarks += [
        f"{each}: {json.dumps(entry[each])}" for each in ("relaxations", "codes", "released") if entry.get(each)
    ]
    cells = (entry.get("at"), entry.get("verdict"), entry.get("tcb_status", ""), name, "; ".join(remarks))
    return tuple(kit.printable(str(each)) for each in cells)


@contextlib.contextmanager
def _appending(path: Path | None) -> "Iterator[Keep]":
    """Add entries to a file as they come; when the log turns out to be wrong, the file is left as it was."""
    if path is None:
        yield lambda entries: None
        return
    try:
        with path.open("ab") as file:
            end = file.tell()
            try:
                yield lambda entries: file.writelines(f"{entry}\n".encode() for entry in entries)
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        raise UsageError(f"cannot write the entries {path}: {error.strerror or error}", code="cli.output") from error
