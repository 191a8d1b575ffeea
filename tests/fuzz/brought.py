# SPDX-License-Identifier: Apache-2.0
"""What anybody, or an administrator, may bring to a collateral service: functions to fuzz and good input for them."""

import json

from kubenclave.dcap.collateral import load_json
from kubenclave.services.collateral import bundle, platformcollateral
from kubenclave.services.collateral.appraisal import AppraisalPolicy
from kubenclave.services.collateral.queue import Platform
from tests.collateral_items import ANCHOR, FMSPC_TEXT, items
from tests.evidence import NOW
from tests.pccsadmin import PLATFORM, SGX_CLASS, brought, policy

_KEY = bundle.signing_key(b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg
-----END PRIVATE KEY-----
""")  # everybody may know it

BUNDLE = bundle.write(items().values(), _KEY, anchor=ANCHOR, created=NOW)
PLATFORM_COLLATERAL = json.dumps(brought()).encode()
REGISTRATIONS = [json.dumps(PLATFORM).encode(), b'{"qe_id":"a","pce_id":"0000","platform_manifest":"00"}']
APPRAISAL = json.dumps({"policy": policy(SGX_CLASS), "fmspc": FMSPC_TEXT, "is_default": True}).encode()


def read_bundle(data: bytes) -> None:
    """What a bundle that is read holds is what was signed."""
    assert bundle.read(data, [_KEY]).items == bundle.read(BUNDLE, [_KEY]).items


def read_platform_collateral(data: bytes) -> None:
    """Read what pccsadmin brings."""
    platformcollateral.parse(data, NOW)


def read_registration(data: bytes) -> None:
    """A platform leads back to what registers it."""
    platform = Platform.from_json(load_json(data, "platform"))
    assert Platform.from_json(platform.as_dict()) == platform


def read_appraisal_policy(data: bytes) -> None:
    """Read an appraisal policy; it has an id."""
    assert len(AppraisalPolicy.from_json(data).id) == 96
