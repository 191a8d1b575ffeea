# SPDX-License-Identifier: Apache-2.0
"""Where collateral comes from: the cache in this process, or one fixed set. Configuration says; no request does."""

from dataclasses import dataclass
from typing import Protocol

from kubenclave.dcap.collateral import Collateral
from kubenclave.services.collateral.assemble import Getter, collateral_for
from kubenclave.services.collateral.items import STANDARD, Tee


class CollateralProvider(Protocol):
    """Finds the collateral of a platform, whose PCK chain has been verified before anybody asks."""

    async def collateral(self, tee: Tee, fmspc: str, ca: str) -> Collateral:
        """Return what vouches for the platforms of an FMSPC (12 hex digits) and a CA (``processor``, ``platform``).

        Raises UnreachableError when it cannot be had now, FormatError when what came cannot be read, TrustError when
        it is not genuine.
        """
        ...


@dataclass(frozen=True, slots=True)
class CachedCollateral:
    """From a collateral cache: ``get`` is that of ``CollateralCache``; ``update`` is the generation."""

    get: Getter
    update: str = STANDARD

    async def collateral(self, tee: Tee, fmspc: str, ca: str) -> Collateral:
        """Put the four items together."""
        return await collateral_for(self.get, tee=tee, fmspc=fmspc, ca=ca, update=self.update)


@dataclass(frozen=True, slots=True)
class FixedCollateral:
    """The same for every platform, for machines without any network: verification says where it does not fit."""

    held: Collateral

    async def collateral(self, tee: Tee, fmspc: str, ca: str) -> Collateral:
        """Return it."""
        return self.held
