# SPDX-License-Identifier: Apache-2.0
"""TCB status: matching levels and converging the parts (Intel QVL, EvaluateTcb.cpp)."""

import enum
from collections.abc import Iterable
from typing import Final


class TcbStatus(enum.StrEnum):
    """Status of a TCB in Intel's spelling."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


_S = TcbStatus
PLATFORM_STATUSES: Final = frozenset(set(_S) - {_S.TD_RELAUNCH_ADVISED, _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED})
QE_STATUSES: Final = PLATFORM_STATUSES - {_S.SW_HARDENING_NEEDED, _S.CONFIGURATION_AND_SW_HARDENING_NEEDED}
MODULE_STATUSES: Final = frozenset({_S.UP_TO_DATE, _S.OUT_OF_DATE, _S.REVOKED})

_WITH_OUT_OF_DATE_COMPONENT: Final = {
    _S.UP_TO_DATE: _S.OUT_OF_DATE,
    _S.SW_HARDENING_NEEDED: _S.OUT_OF_DATE,
    _S.CONFIGURATION_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    _S.OUT_OF_DATE: _S.OUT_OF_DATE,
    _S.OUT_OF_DATE_CONFIGURATION_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    _S.REVOKED: _S.REVOKED,
}
_OUT_OF_DATE: Final = frozenset({_S.OUT_OF_DATE, _S.OUT_OF_DATE_CONFIGURATION_NEEDED})
_CONFIGURATION: Final = frozenset(
    {
        _S.CONFIGURATION_NEEDED,
        _S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)


def converge(platform: TcbStatus, components: Iterable[TcbStatus]) -> TcbStatus:
    """Return the status of a platform together with its quoting enclave and TDX module.

    It is a table, not the worse of two: ConfigurationNeeded with an OutOfDate component has to become
    OutOfDateConfigurationNeeded. Component statuses other than UpToDate and Revoked count as OutOfDate, which
    was Intel's reading until 2024 and is the safe one.
    """
    statuses = set(components)
    if platform is _S.REVOKED or _S.REVOKED in statuses:
        return _S.REVOKED
    return platform if statuses <= {_S.UP_TO_DATE} else _WITH_OUT_OF_DATE_COMPONENT[platform]


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """Return the status of a TD whose module was updated after its launch (TD report 1.5 and later).

    ``launch`` and ``current`` are the converged statuses under the TCB at launch and the one running now.
    """
    if launch not in _OUT_OF_DATE or current in _OUT_OF_DATE or current is _S.REVOKED:
        return launch
    if launch in _CONFIGURATION or current in _CONFIGURATION:
        return _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return _S.TD_RELAUNCH_ADVISED
