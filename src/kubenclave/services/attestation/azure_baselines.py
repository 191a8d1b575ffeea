# SPDX-License-Identifier: Apache-2.0
"""TCB baselines as Azure's API lists them: the generations of collateral, and the one that verdicts rest on.

Azure adds the version of the platform software that each needs; nothing that Intel signs says it, so it is left out.
"""

from typing import Any, Final

from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.describe import zulu
from kubenclave.errors import PlatformError
from kubenclave.services.attestation.provider import CachedCollateral, CollateralProvider, FixedCollateral
from kubenclave.services.collateral.items import ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import UnknownError
from kubenclave.wire import pcs

SELECTED: Final = "azuredefault"
"""What Azure's default policy calls the generation in use."""

_NUMBER: Final = "tcbEvaluationDataNumber"


async def baselines(provider: CollateralProvider, attestation_type: str) -> list[dict[str, Any]]:
    """Return the generations, the newest first. Raises PlatformError ``maa.no-baselines``, and as the provider does."""
    if isinstance(provider, FixedCollateral):
        return [_baseline(int(load_json(provider.held.qe_identity, "QE identity")[_NUMBER]), selected=True)]
    if not isinstance(provider, CachedCollateral):
        raise PlatformError("this service does not know the generations of its collateral", code="maa.no-baselines")
    tee = Tee.TDX if attestation_type == "TdxVm" else Tee.SGX
    in_use = (await provider.get(ItemKey.identity(tee, update=provider.update))).number
    try:
        listed = await provider.get(ItemKey(Kind.EVALUATION_NUMBERS, tee=tee))
    except UnknownError:  # a PCCS upstream has no such list
        return [_baseline(in_use, selected=True)]
    document, _ = pcs.split_signed(listed.body, pcs.EVALUATION_NUMBERS)
    return [
        _baseline(each.number, selected=each.number == in_use) | {"tcbReleaseDate": zulu(each.recovery_event)}
        for each in pcs.parse_evaluation_numbers(document).numbers
    ]


def _baseline(number: int, *, selected: bool) -> dict[str, Any]:
    return {"tcbIdentifier": SELECTED if selected else str(number), _NUMBER: number, "isSelectedTcb": selected}
