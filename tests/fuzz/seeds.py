# SPDX-License-Identifier: Apache-2.0
"""Good inputs for the targets, our own and third-party ones where they are there."""

import base64
import json
import struct
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from kubenclave.dcap.azurepolicy import DEFAULT_POLICIES, claims_of
from kubenclave.dcap.binding import runtime_data
from kubenclave.dcap.merkle import leaf_hash
from kubenclave.dcap.pckext import PckCa
from kubenclave.errors import Finding
from kubenclave.local import control
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Pki, derive_key, raw_signature, sgx_entries, sgx_extension
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.transparency.checkpoint import Checkpoint, InclusionReceipt, LogKey
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.sigstruct import Sigstruct, rsa_signer, sign
from kubenclave.wire import maa, pcs, quoteworker, simcpu
from tests import ratls, samples
from tests.conftest import ROOT, shared_data_path
from tests.evidence import SEED, make


def shared(pattern: str) -> list[bytes]:
    """Return third-party files, where they are there."""
    return [path.read_bytes() for path in sorted(shared_data_path().glob(pattern))]


def shared_documents(name: str) -> list[bytes]:
    """Return members of third-party collateral."""
    return [json.loads(text)[name].encode() for text in shared("quotes/*/collateral.json")]


def _record(tag: bytes, *numbers: int) -> bytes:
    return (tag.ljust(8, b"\0") + struct.pack(f"<{len(numbers)}Q", *numbers)).ljust(64, b"\0")


def _sigstruct() -> bytes:
    template = Sigstruct(enclave_hash=bytes(32), attributes=Attributes(4, 3), attribute_mask=Attributes(2, 3))
    return sign(template, samples.MODULUS, rsa_signer(samples.MODULUS, samples.PRIVATE_EXPONENT)).build()


def _token(claims: dict[str, Any]) -> bytes:
    """Sign a token with the key of ``JWKS``, which everybody may know."""
    return jws.serialize_compact({"alg": "ES256", "kid": "fuzz"}, json.dumps(claims), _TOKEN_KEY, ["ES256"]).encode()


_TOKEN_KEY: Final = ECKey.import_key(
    ec.derive_private_key(2**200 + 1, ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
)
JWKS: Final = json.dumps({"keys": [{**_TOKEN_KEY.as_dict(private=False), "kid": "fuzz", "alg": "ES256"}]}).encode()
TOKEN_ISSUER: Final = "https://fuzz.example"
_TOKEN_TIMES: Final = {"iss": TOKEN_ISSUER, "iat": 1_772_712_000, "nbf": 1_772_712_000, "exp": 1_772_715_600}
_TOKEN_FLAGS: Final = {"simulated": False, "debug": False, "draft": False, "fresh": True, "relaxations": []}
TOKENS: Final = [
    _token({**_TOKEN_TIMES, "kubenclave": _TOKEN_FLAGS}),
    _token({**_TOKEN_TIMES, "x-ms-sgx-is-debuggable": False}),
]
EVIDENCE: Final = make()
EVIDENCE_WITHOUT_CHAIN: Final = make(chain_inside=False)

_COLLATERAL: Final = EVIDENCE.collateral
PCS_DOCUMENTS: Final = [
    pcs.join_signed(pcs.TCB_INFO, _COLLATERAL.tcb_info, _COLLATERAL.tcb_info_signature),
    b'{ "tcbInfo" : {"a":"}"} , "signature" : "' + b"0A" * 64 + b'" }',
]
PCS_CHAINS: Final = [pcs.encode_chain(_COLLATERAL.pck_crl_issuer_chain).encode(), _COLLATERAL.tcb_info_issuer_chain]
THIM_CERTIFICATE: Final = json.dumps(
    {
        "pckCert": EVIDENCE.chain.decode().partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n",
        "sgx-Pck-Certificate-Issuer-Chain": PCS_CHAINS[0].decode(),
        "sgx-Tcbm": "0A" * 18,
        "cacheMaxAge": "86400",
    }
).encode()
PCS_CRLS: Final = [
    _COLLATERAL.pck_crl,
    pcs.crl_hex(_COLLATERAL.pck_crl),
    pcs.crl_pem(_COLLATERAL.pck_crl),
]
PCS_LISTS: Final = [
    b'[{"fmspc":"00906ED50000","platform":"E3"}]',
    (
        b'{"id":"SGX","version":1,"issueDate":"2026-03-01T00:00:00Z","nextUpdate":"2026-03-31T00:00:00Z",'
        b'"tcbEvalNumbers":[{"tcbEvaluationDataNumber":17,"tcbRecoveryEventDate":"2024-11-12T00:00:00Z",'
        b'"tcbDate":"2024-11-12T00:00:00Z"}]}'
    ),
    pcs.encode_pck_certs(
        (pcs.PckEntry(bytes(18), None), pcs.PckEntry(bytes(18), pcs.split_chain(EVIDENCE.chain)[0])),
    ),
]
PCS_PARAMETERS: Final = [b"00906ED50000", b"Platform", b"early", b"17", b"0e" * 18]
QUOTES: Final = [*(samples.quote(*kind) for kind in samples.QUOTES.values()), EVIDENCE.quote]
SIGSTRUCT: Final = _sigstruct()
SGXS: Final = (
    (b"ECREATE\0" + struct.pack("<IQ", 1, 0x10000)).ljust(64, b"\0")
    + _record(b"EADD", 0, 0x203)
    + _record(b"EEXTEND", 0x100)
    + bytes(range(256))
    + _record(b"UNMEASRD", 0x200)
    + bytes(256)
    + _record(b"EADD", 0x3000, 0x100)
)
GRAMINE_MANIFEST: Final = b"""[sgx]
enclave_size = "2M"
max_threads = 1
isvsvn = 3
debug = false
[sgx.cpu_features]
avx = "required"
"""
WORKER: Final = [
    quoteworker.encode_request(1, quoteworker.Op.QUOTE, bytes(433)),
    quoteworker.encode_reply(1, payload=bytes(548)),
    quoteworker.QuoteRequest(bytes(432), bytes(960)).build(),
    quoteworker.QuoteResult(b"quote", bytes(960)).build(),
]
CPU: Final = [
    simcpu.encode_request(simcpu.Create(size=8192, attributes=Attributes(4, 3))),
    simcpu.encode_request(simcpu.Extend(0, bytes(256))),
    simcpu.encode_request(simcpu.GetStatus()),
    simcpu.encode_request(simcpu.Measured(bytes(32), 7)),
    simcpu.encode_reply(simcpu.Reply(simcpu.Code.SUCCESS, bytes(32))),
    simcpu.encode_reply(simcpu.refusal(simcpu.Code.OUT_OF_EPC, "no page is free")),
]
PCK_EXTENSIONS: Final = [
    sgx_extension(sgx_entries(Issuer(Pki.from_seed(bytes(32)), ca=ca).extension(PlatformTcb.UP_TO_DATE)))
    for ca in PckCa
]
POLICY: Final[dict[str, Any]] = {
    "version": 1,
    "name": "payroll",
    "enclaves": [
        {"mr_enclave": "ab" * 32},
        {"name": "any release", "mr_signer": "cd" * 32, "isv_prod_id": 1, "min_isv_svn": 2},
        {"mr_td": "ef" * 48},
    ],
    "tcb_statuses": ["UpToDate", "SWHardeningNeeded"],
    "refused_advisories": ["INTEL-SA-00615"],
    "attributes": {"mask": "ff" * 16, "value": "05" + "00" * 15},
    "misc_select": {"mask": "ffffffff", "value": "00000000"},
    "report_data": "aa",
    "max_collateral_age_days": 30,
    "min_tcb_evaluation_data_number": 17,
    "dangerously_accept_expired_collateral_days": 1,
}
_AB, _FF, _00 = "ab" * 32, "ff" * 16, "00" * 16
AZURE_DOCUMENT: Final = '{"a":[{"b":1},{"b":[2,"c"]}],"d":{"e":null,"f":1.5}}'
AZURE_CLAIMS: Final = claims_of({"x-ms-sgx-svn": 3, "x-ms-sgx-is-debuggable": False, "x-ms-runtime": AZURE_DOCUMENT})
AZURE_POLICIES: Final = [
    *(text.encode() for text in DEFAULT_POLICIES.values()),
    b"""version=1.2; // all there is
    configurationrules{ => issueproperty(type="x-ms-sgx-tcbidentifier", value="17"); };
    authorizationrules{
      [type=="$svn", value>=3, valueType=="Integer"] && ![type=="bad", issuer!="AttestationPolicy"] => permit();
      a:[type=="x-ms-sgx-svn"] && b:[type=="$svn", value==a.value] => add(type="inner", value=b.value);
      [type=="x-ms-sgx-is-debuggable", value==true] => deny();
    };
    issuancerules{
      c:[type=="x-ms-runtime"] => add(type="b", value=JsonToClaimValue(JmesPath(c.value, "a[0].b")));
      b:[type=="b"] => issue(type="only", value=NegateBool(ContainsOnlyValue(b.value, -1)));
      b:[type=="b"] && i:[type=="inner"] => issue(type="subset", value=IsSubsetOf(b.value, i.value));
      i:[type=="inner"] => issue(claim=i);
      => issue(type="text", value=AppendString("a\\\\", "\\"b"));
    };""",
]
AZURE_QUERIES: Final = [
    b"a[?b == `1`].b | [0]",
    b"join('-', [d.e || 'x', to_string(a)])",
    b"{x: a[*].b[], y: sort_by(a, &to_string(b))[::-1], z: !d}",
    b"max_by(a, &length(to_string(b))).b",
]
POLICY_TOML: Final = f"""version = 1
tcb_statuses = ["UpToDate"]
report_data = "00"
[[enclaves]]
mr_signer = "{_AB}"
isv_prod_id = 1
min_isv_svn = 2
[attributes]
mask = "{_FF}"
value = "{_00}"
"""
POD: Final[dict[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "pod", "annotations": {"sgx.intel.com/quote-provider": "aesmd"}},
    "spec": {
        "terminationGracePeriodSeconds": 5,
        "initContainers": [{"name": "init", "command": ["true"], "restartPolicy": "Always"}],
        "containers": [
            {
                "name": "main",
                "image": "image",
                "command": ["sh", "-c", "$(GREETING)"],
                "args": ["$$"],
                "workingDir": "/",
                "env": [
                    {"name": "GREETING", "value": "hello"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "resources": {
                    "limits": {"sgx.intel.com/epc": "10Mi"},
                    "requests": {"sgx.intel.com/epc": "10Mi"},
                },
                "volumeMounts": [{"name": "aesm", "mountPath": "/var/run/aesmd"}],
            }
        ],
        "volumes": [{"name": "aesm", "hostPath": {"path": "/var/run/aesmd"}}],
    },
}
REVIEWS: Final = [
    json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "u", "namespace": "n", "object": POD},
        }
    ).encode()
]
POD_YAMLS: Final = [path.read_bytes() for path in sorted((ROOT / "examples").glob("pod-*.yaml"))]
CONTROL_LINES: Final = [
    control.encode(control.LeaseRequest(POD)),
    control.encode(control.StatusRequest()),
    control.encode(control.Granted(POD, (control.Container("main", "main"),), 4096, "/state", simulated=True)),
    control.encode(control.Status(True, 8192, 4096, (control.HeldLease("pod", 1, 4096),), {"r": (1, 1)}, "/socket")),
    control.encode(
        control.Refused("PolicyError", "c", "m", findings=(Finding("c", "f", "e", "f"),)),
    ),
]

_RA_TLS_KEY: Final = derive_key(SEED, "RA-TLS")
RA_TLS_QUOTES: Final = [EVIDENCE.quote]
RA_TLS_CLAIMS: Final = [ratls.claims(_RA_TLS_KEY, b"nonce")]
_TAGGED: Final = ratls.tagged(EVIDENCE.quote, RA_TLS_CLAIMS[0])
RA_TLS: Final = [
    ratls.pem(ratls.certificate(_RA_TLS_KEY, {ratls.DICE: _TAGGED})),
    ratls.der(ratls.certificate(_RA_TLS_KEY, {ratls.DICE: _TAGGED})),
    ratls.der(ratls.certificate(_RA_TLS_KEY, {ratls.GRAMINE: EVIDENCE.quote})),
]
CBOR: Final = [_TAGGED, RA_TLS_CLAIMS[0], b"\xa2\x01\x20\x61a\x82\x18\x18\xc1\x00"]
ATTEST_REQUESTS: Final = [
    json.dumps({"quote": EVIDENCE.quote.hex(), "nonce": "12345678", "token": "azure"}).encode(),
    json.dumps({"ra_tls_certificate": RA_TLS[0].decode()}).encode(),
    json.dumps(
        {"open_enclave_report": "AQAAAAIAAAAAAAAAAAAAAA", "runtime_data": {"data": "e30", "type": "JSON"}}
    ).encode(),
]

AZURE_REQUESTS: Final = [
    json.dumps(
        {
            "report": "AQAAAAIAAAACAAAAAAAAAEFB",
            "runtimeData": {"data": "e30", "dataType": "JSON"},
            "draftPolicyForAttestation": "version= 1.0;",
            "nonce": "n",
        }
    ).encode()
]


def _signed_policy() -> str:
    """A policy's token, signed with the key of a certificate that is at hand: that of the platform."""
    leaf = x509.load_pem_x509_certificates(EVIDENCE.chain)[0].public_bytes(Encoding.DER)
    header = {"alg": "ES256", "x5c": [base64.b64encode(leaf).decode()]}
    claims = maa.policy_claims("version= 1.0; authorizationrules { => permit(); };")
    signed = ".".join(maa.encode_base64(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{maa.encode_base64(raw_signature(derive_key(SEED, 'PCK'), signed.encode()))}"


SIGNED_POLICY: Final = _signed_policy()

_LOG_PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
LOG_KEY = str(LogKey("attest.example", _LOG_PRIVATE.public_key().public_bytes_raw()))
LOG_HEAD = Checkpoint("attest.example", 1, leaf_hash(b"entry")).sign(_LOG_PRIVATE)
LOG_RECEIPT = InclusionReceipt(0, (), LOG_HEAD).text
RUNTIME_DATA = [
    runtime_data("nonce", ECKey.import_key(derive_key(SEED, "release")).as_dict(private=False)),
    runtime_data("nonce", RSAKey.import_key(rsa.RSAPublicNumbers(3, samples.MODULUS).public_key()).as_dict()),
]
