# SPDX-License-Identifier: Apache-2.0
"""The native API through the whole application, with evidence of a SIMULATED platform."""

import jwt
import pytest

from tests.attestation_service import ISSUER, attestation, base64url

__all__ = ["attestation"]


@pytest.mark.parametrize(("dialect", "keys"), [("ear", "/v1/certs"), ("ear-veraison", "/v1/certs")])
def test_attest_gives_a_token_that_a_usual_library_verifies(attestation, dialect, keys):
    answer = attestation.post("/v1/attest", {"quote": base64url(attestation.quote()), "token": dialect})
    assert answer.status_code == 200, answer.text
    token = answer.json()["token"]
    key_set = jwt.PyJWKSet.from_dict(attestation.get(keys).json())
    key = key_set[jwt.get_unverified_header(token)["kid"]]
    verified = jwt.decode(
        token, key, ["ES256"], issuer=ISSUER, options={"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    )
    assert verified["kubenclave"]["simulated"] is True
    assert verified["kubenclave"]["fresh"] is False
