# SPDX-License-Identifier: Apache-2.0
"""What a quote says about which collateral it needs."""

import pytest

from kubenclave.dcap.pckext import PckCa
from kubenclave.errors import FormatError, TrustError
from kubenclave.platform.simulated.pki import Role, pem_chain
from kubenclave.platform.simulated.tcb import FMSPC
from kubenclave.services.collateral.assemble import needs_of, read_leaf
from kubenclave.services.collateral.items import Tee
from kubenclave.sgx.quote import Quote
from tests import evidence
from tests.collateral_world import NOW
from tests.pcs_upstream import World
from tests.simulated_platform import Platform

WORLD = World(lambda: NOW)


def test_a_quote_with_its_chain_inside_and_one_beside():
    made = evidence.make(chain_inside=False)
    with pytest.raises(TrustError) as caught:
        needs_of(made.quote)
    assert caught.value.code == "pck.missing"
    assert needs_of(made.quote, made.chain) == (Tee.SGX, FMSPC.hex(), "platform")
    inside = evidence.make()
    assert needs_of(Quote.parse(inside.quote), b"left unread") == (Tee.SGX, FMSPC.hex(), "platform")


def test_the_processor_ca():
    chain = Platform(ca=PckCa.PROCESSOR).pck_chain()
    extension, ca = read_leaf(chain)
    assert (extension.fmspc, ca) == (FMSPC, PckCa.PROCESSOR)


@pytest.mark.parametrize(
    "chain",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        pem_chain(WORLD.pki.certificates[Role.TCB_SIGNER]),
    ],
)
def test_a_chain_without_a_leaf(chain: bytes):
    with pytest.raises(FormatError):
        read_leaf(chain)
