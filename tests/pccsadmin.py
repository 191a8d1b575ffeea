# SPDX-License-Identifier: Apache-2.0
"""What PCCS's companions send: a platform that registers, the file that pccsadmin brings, appraisal policies."""

import base64
import json
import urllib.parse
from typing import Any

from kubenclave.platform.simulated.pki import derive_key
from kubenclave.platform.simulated.tcb import PCE_ID, PlatformTcb
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, ItemKey, Tee
from kubenclave.wire import pcs
from tests.collateral_items import FMSPC_TEXT, ISSUER, offered
from tests.evidence import SEED

HELD = offered()
QE_ID = "0123456789ABCDEF" * 2
TCB = ISSUER.extension(PlatformTcb.UP_TO_DATE)
TCBM = TCB.cpu_svn + TCB.pce_svn.to_bytes(2, "little")
CHAIN = ISSUER.pck_chain(PlatformTcb.UP_TO_DATE, derive_key(SEED, "PCK").public_key())
LEAF, *ISSUERS = (b"-----BEGIN" + each for each in CHAIN.split(b"-----BEGIN")[1:])
PLATFORM = {
    "qe_id": QE_ID,
    "pce_id": PCE_ID.hex().upper(),
    "cpu_svn": TCB.cpu_svn.hex().upper(),
    "pce_svn": TCBM[16:].hex().upper(),
    "enc_ppid": "AB" * 384,
    "platform_manifest": "",
}


def brought(**changes: Any) -> dict[str, Any]:
    """The file that pccsadmin's ``fetch`` writes."""

    def document(key: ItemKey) -> Any:
        return json.loads(HELD[key].body)  # the tool takes it apart, and writes it again with blanks in it

    def chain(key: ItemKey) -> str:
        return pcs.encode_chain(HELD[key].issuer_chain)

    info = ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT)
    collaterals = {
        "version": 4,
        "pck_certs": [
            {
                "qe_id": QE_ID,
                "pce_id": PLATFORM["pce_id"],
                "enc_ppid": PLATFORM["enc_ppid"],
                "platform_manifest": "",
                "certs": [
                    {"tcb": {}, "tcbm": TCBM.hex(), "cert": urllib.parse.quote(LEAF)},
                    {"tcb": {}, "tcbm": "ff" * 18, "cert": "Not available"},
                ],
            }
        ],
        "tcbinfos": [
            {
                "fmspc": FMSPC_TEXT.upper(),
                "sgx_tcbinfo": document(info),
                "sgx_tcbinfo_early": document(ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT, EARLY)),
                "tdx_tcbinfo": document(ItemKey.tcb_info(Tee.TDX, FMSPC_TEXT)),
            }
        ],
        "pckcacrl": {
            "processorCrl": HELD[ItemKey.pck_crl("processor")].body.hex(),
            "platformCrl": HELD[ItemKey.pck_crl("platform")].body.hex(),
        },
        "qeidentity": HELD[ItemKey.identity(Tee.SGX)].body.decode(),
        "tdqeidentity": HELD[ItemKey.identity(Tee.TDX)].body.decode(),
        "qveidentity": HELD[ItemKey.identity(Tee.SGX, "qve")].body.decode(),
        "certificates": {
            "SGX-PCK-Certificate-Issuer-Chain": {"PLATFORM": pcs.encode_chain(b"".join(ISSUERS))},
            "TCB-Info-Issuer-Chain": chain(info),
            "SGX-Enclave-Identity-Issuer-Chain": chain(ItemKey.identity(Tee.SGX)),
        },
        "rootcacrl": HELD[ROOT_CRL].body.hex(),
        "rootcacrl_cdp": "https://simulated.invalid/IntelSGXRootCA.der",
    }
    return {"platforms": [PLATFORM], "collaterals": {**collaterals, **changes}}


SGX_CLASS, TDX_CLASS = "3123ec35-8d38-4ea5-87a5-d6c48b567570", "9eec018b-7481-4b1c-8e1a-9f7c0c8c777f"
TDQE_CLASS = "3769258c-75e6-4bc7-8d72-d2b0e224cad2"


def token(payload: str) -> str:
    return f"e30.{base64.urlsafe_b64encode(payload.encode()).rstrip(b'=').decode()}.c2ln"


def policy(*classes: str, note: str = "") -> str:
    inner = json.dumps({"policy_array": [{"environment": {"class_id": each}} for each in classes], "note": note})
    return token(json.dumps({"policy_payload": inner}))
