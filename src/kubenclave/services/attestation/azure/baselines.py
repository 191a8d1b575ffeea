# SPDX-License-Identifier: Apache-2.0
"""TCB baselines as Azure's API lists them: the generations of collateral, and the one that verdicts rest on.

Azure adds the version of the platform software that each needs; nothing that Intel signs says it, so it is left out.
"""

from collections.abc import Iterable
from typing import Any, Final

from kubenclave.dcap.describe import zulu
from kubenclave.services.attestation.provider import Generation

SELECTED: Final = "azuredefault"
"""What Azure's default policy calls the generation in use."""


def baselines(generations: Iterable[Generation]) -> list[dict[str, Any]]:
    """Return the generations as Azure spells them, in their order."""
    return [
        {
            "tcbIdentifier": SELECTED if each.in_use else str(each.number),
            "tcbEvaluationDataNumber": each.number,
            "isSelectedTcb": each.in_use,
            **({} if each.recovery is None else {"tcbReleaseDate": zulu(each.recovery)}),
        }
        for each in generations
    ]
