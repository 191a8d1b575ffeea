# SPDX-License-Identifier: Apache-2.0
"""All routes of the collateral service, and how a server in front of them has to treat them."""

from typing import Final

from starlette.routing import Route

from kubenclave.services.collateral import platformcollateral
from kubenclave.services.collateral.openapi import openapi_route
from kubenclave.services.collateral.pccs import pccs_routes
from kubenclave.services.collateral.pcs import SGX_V3, SGX_V4, TDX_V4, pcs_routes
from kubenclave.services.collateral.service import CollateralService
from kubenclave.services.collateral.status import status_routes

PREFIXES: Final = ("/sgx/certification/", "/tdx/certification/")
"""Paths whose clients know the answers of PCCS alone: ``replies.failure`` makes those of what stands before routes."""

BODIES: Final = {f"{mount}/platformcollateral": platformcollateral.MAX_SIZE for mount in (SGX_V4, SGX_V3)}
"""Bytes of a body, by path, where they are more than elsewhere."""

__all__ = ["BODIES", "PREFIXES", "SGX_V3", "SGX_V4", "TDX_V4", "collateral_routes"]


def collateral_routes(service: CollateralService) -> list[Route]:
    """Return all routes: of clients, of platforms and administrators, and the status."""
    return [*pcs_routes(service), *pccs_routes(service), *status_routes(service), openapi_route()]
