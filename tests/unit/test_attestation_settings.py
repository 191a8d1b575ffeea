# SPDX-License-Identifier: Apache-2.0
"""Settings: what an issuer may be called, and that a service is for one root all its life."""

import datetime as dt

import pytest

from kubenclave.errors import FormatError, UsageError
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Pki
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.provider import FixedCollateral
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.settings import Settings
from tests import simulated_platform
from tests.attestation_service import ISSUER
from tests.clock import Clock

REAL = "https://attestation.example"
ROOT = Issuer(Pki.from_seed(simulated_platform.SEED)).root_der
OTHER_ROOT = Issuer(Pki.from_seed(b"x" * 32)).root_der


def made(tmp_path, **given):
    return Settings(**{"issuer": ISSUER, "state": tmp_path, "root": ROOT, **given})


def test_names_and_roots_agree(tmp_path):
    assert made(tmp_path).simulated
    assert made(tmp_path, issuer="http://simulated.localhost:1").simulated
    real = made(tmp_path, issuer=REAL, root=None)
    assert not real.simulated
    assert (real.path, made(tmp_path).path) == ("", "/simulated")


@pytest.mark.parametrize(("issuer", "root"), [(REAL, ROOT), (ISSUER, None)])
def test_service_that_is_called_what_it_is_not(tmp_path, issuer, root):
    with pytest.raises(UsageError) as caught:
        made(tmp_path, issuer=issuer, root=root)
    assert caught.value.code == "settings.issuer-simulated"


@pytest.mark.parametrize(
    "issuer",
    [
        "",
        "attestation.example",
        "ftp://attestation.example",
        "https://",
        "https://attestation.example/",
        "https://attestation.example?x=1",
        "https://attestation.example#x",
        "https://somebody@attestation.example",
        "https://attestation.example:port",
        "https://attestation example",
        "https://attestation.exämple",
        "https://[::1",
        "https://" + "a" * 250,
    ],
)
def test_issuers_that_clients_would_write_otherwise(tmp_path, issuer):
    with pytest.raises(UsageError) as caught:
        made(tmp_path, issuer=issuer, root=None)
    assert caught.value.code == "settings.unfit"


@pytest.mark.parametrize(
    "given",
    [
        {"token_lifetime": dt.timedelta(seconds=1)},
        {"token_lifetime": dt.timedelta(days=2)},
        {"challenge_lifetime": dt.timedelta(seconds=1)},
        {"max_batch": 0},
        {"max_batch": 1000},
        {"keep_evidence": -1},
        {"minimum_tcb_evaluation_data_number": -1},
        {"dangerously_accept_expired_collateral": dt.timedelta(seconds=-1)},
    ],
)
def test_values_out_of_bounds(tmp_path, given):
    with pytest.raises(UsageError) as caught:
        made(tmp_path, **given)
    assert (caught.value.code, caught.value.field) == ("settings.unfit", *given)


def test_root_that_is_no_certificate(tmp_path):
    with pytest.raises(FormatError):
        made(tmp_path, root=b"nothing")


def test_nothing_is_relaxed_by_default_and_all_that_is_has_a_name(tmp_path):
    assert made(tmp_path).relaxations == ()
    lax = made(
        tmp_path,
        dangerously_allow_debug=True,
        dangerously_accept_expired_collateral=dt.timedelta(days=1),
        dangerously_allow_draft_policies=True,
    )
    assert [each.split(":")[0] for each in lax.relaxations] == [
        "dangerously_allow_debug",
        "dangerously_accept_expired_collateral",
        "dangerously_allow_draft_policies",
    ]


def test_state_belongs_to_one_root_for_good(tmp_path):
    collateral = FixedCollateral(
        Issuer(Pki.from_seed(simulated_platform.SEED)).collateral(PlatformTcb.UP_TO_DATE, simulated_platform.NOW)
    )
    state = tmp_path / "state"
    for settings in (made(state), made(state)):
        AttestationService.create(settings, collateral, Clock(simulated_platform.NOW)).close()
    assert state.stat().st_mode & 0o777 == 0o700
    for other in (made(state, root=OTHER_ROOT), made(state, issuer=REAL, root=None)):
        with pytest.raises(UsageError) as caught:
            AttestationService.create(other, collateral, Clock(simulated_platform.NOW))
        assert caught.value.code == "settings.other-root"
