# SPDX-License-Identifier: Apache-2.0
"""Convergence and relaunch, row by row of Intel's tables (dcap.md, section 6)."""

import itertools

import pytest

from kubenclave.dcap.tcb import MODULE_STATUSES, PLATFORM_STATUSES, QE_STATUSES, TcbStatus, converge, relaunch

UP, OLD, REVOKED = TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED
HARDENING, CONFIGURATION = TcbStatus.SW_HARDENING_NEEDED, TcbStatus.CONFIGURATION_NEEDED
BOTH = TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED
OLD_CONFIGURATION = TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
ADVISED = TcbStatus.TD_RELAUNCH_ADVISED
ADVISED_CONFIGURATION = TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED

# Platform: with components all UpToDate, with one OutOfDate, with one Revoked.
CONVERGED = {
    UP: (UP, OLD, REVOKED),
    HARDENING: (HARDENING, OLD, REVOKED),
    CONFIGURATION: (CONFIGURATION, OLD_CONFIGURATION, REVOKED),
    BOTH: (BOTH, OLD_CONFIGURATION, REVOKED),
    OLD: (OLD, OLD, REVOKED),
    OLD_CONFIGURATION: (OLD_CONFIGURATION, OLD_CONFIGURATION, REVOKED),
    REVOKED: (REVOKED, REVOKED, REVOKED),
}


@pytest.mark.parametrize("platform", CONVERGED, ids=str)
@pytest.mark.parametrize("components", list(itertools.product([UP, OLD, REVOKED], repeat=2)), ids="+".join)
def test_converge(platform, components):
    column = 2 if REVOKED in components else 1 if OLD in components else 0
    assert converge(platform, components) is CONVERGED[platform][column]


@pytest.mark.parametrize("component", [CONFIGURATION, OLD_CONFIGURATION], ids=str)
@pytest.mark.parametrize("platform", CONVERGED, ids=str)
def test_a_component_that_asks_for_configuration_counts_as_out_of_date(platform, component):
    assert converge(platform, [component]) is CONVERGED[platform][1]


def test_the_table_covers_every_status_a_platform_can_have():
    assert CONVERGED.keys() == PLATFORM_STATUSES


def test_a_platform_without_components_keeps_its_status():
    assert [converge(status, []) for status in CONVERGED] == list(CONVERGED)


@pytest.mark.parametrize("launch", CONVERGED, ids=str)
@pytest.mark.parametrize("current", CONVERGED, ids=str)
def test_relaunch(launch, current):
    if launch in (OLD, OLD_CONFIGURATION) and current in (UP, HARDENING, CONFIGURATION, BOTH):
        asked = launch is OLD_CONFIGURATION or current in (CONFIGURATION, BOTH)
        expected = ADVISED_CONFIGURATION if asked else ADVISED
    else:
        expected = launch
    assert relaunch(launch, current) is expected


def test_statuses_are_intels_words():
    assert {status.value for status in TcbStatus} == {
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
    }


def test_which_part_may_have_which_status():
    assert {UP, CONFIGURATION, OLD, OLD_CONFIGURATION, REVOKED} == QE_STATUSES
    assert {UP, OLD, REVOKED} == MODULE_STATUSES
