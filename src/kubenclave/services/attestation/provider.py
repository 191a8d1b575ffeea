# SPDX-License-Identifier: Apache-2.0
"""Where collateral comes from: the cache in this process, or one fixed set. Configuration says; no request does.

This is all that the attestation service knows of collateral; the service of that name is on the other side.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final, Protocol

from kubenclave.dcap.collateral import Collateral, load_json
from kubenclave.services.collateral.assemble import Getter, collateral_for
from kubenclave.services.collateral.items import STANDARD, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import UnknownError
from kubenclave.sgx.quote import TeeType
from kubenclave.wire import pcs

_TEES: Final = {TeeType.SGX: Tee.SGX, TeeType.TDX: Tee.TDX}


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation of collateral by its TCB evaluation data number; ``recovery``: when what it answers was published.

    ``in_use``: verdicts rest on it.
    """

    number: int
    in_use: bool
    recovery: dt.datetime | None = None


class CollateralProvider(Protocol):
    """Finds the collateral of a platform, whose PCK chain has been verified before anybody asks.

    Raises UnreachableError when it cannot be had now, FormatError when what came cannot be read, TrustError when it is
    not genuine.
    """

    async def collateral(self, tee: TeeType, fmspc: str, ca: str) -> Collateral:
        """Return what vouches for the platforms of an FMSPC (12 hex digits) and a CA (``processor``, ``platform``)."""
        ...

    async def generations(self, tee: TeeType) -> list[Generation]:
        """Return the generations that are known, the newest first; one of them is in use."""
        ...


@dataclass(frozen=True, slots=True)
class CachedCollateral:
    """From a collateral cache: ``get`` is that of ``CollateralCache``; ``update`` is the generation."""

    get: Getter
    update: str = STANDARD

    async def collateral(self, tee: TeeType, fmspc: str, ca: str) -> Collateral:
        """Put the four items together."""
        return await collateral_for(self.get, tee=_TEES[tee], fmspc=fmspc, ca=ca, update=self.update)

    async def generations(self, tee: TeeType) -> list[Generation]:
        """Return those on Intel's list, or the one in use where a PCCS upstream has no such list."""
        in_use = (await self.get(ItemKey.identity(_TEES[tee], update=self.update))).number
        try:
            listed = await self.get(ItemKey(Kind.EVALUATION_NUMBERS, tee=_TEES[tee]))
        except UnknownError:
            return [Generation(in_use, in_use=True)]
        document, _ = pcs.split_signed(listed.body, pcs.EVALUATION_NUMBERS)
        return [
            Generation(each.number, each.number == in_use, each.recovery_event)
            for each in pcs.parse_evaluation_numbers(document).numbers
        ]


@dataclass(frozen=True, slots=True)
class FixedCollateral:
    """The same for every platform, for machines without any network: verification says where it does not fit."""

    held: Collateral

    async def collateral(self, tee: TeeType, fmspc: str, ca: str) -> Collateral:
        """Return it."""
        return self.held

    async def generations(self, tee: TeeType) -> list[Generation]:
        """Return its own."""
        return [
            Generation(int(load_json(self.held.qe_identity, "QE identity")["tcbEvaluationDataNumber"]), in_use=True)
        ]
