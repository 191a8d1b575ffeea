# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes come in, the verifier raises FormatError or VerificationError and nothing else."""

import base64
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

import kubenclave
from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.documents import EnclaveIdentity, TcbInfo
from kubenclave.dcap.pckext import PckCa, PckExtension
from kubenclave.dcap.policy import Policy
from kubenclave.platform.simulated.pki import sgx_entries, sgx_extension
from kubenclave.sgx.certification import CertificationType
from vectors.scene import AT, PKI, collateral_of, der, scene

EVIDENCE = {base: scene(base).build() for base in ("sgx-v3", "sgx-v5", "tdx-v4", "tdx-v5")}
COLLATERAL = {base: collateral_of(evidence) for base, evidence in EVIDENCE.items()}
BASE = st.sampled_from(sorted(EVIDENCE))
CACHE = Cache(64)
PEM_BEGIN, PEM_END = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """Return bytes with up to four places overwritten, cut out or doubled; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 8))
        data[at : at + length] = draw(st.one_of(st.binary(max_size=8), st.just(bytes(data[at : at + 40]))))
    return bytes(data)


@contextlib.contextmanager
def nothing_else(*codes: str) -> Iterator[None]:
    """Let FormatError and VerificationError pass, with one of the codes where some are given."""
    try:
        yield
    except (kubenclave.FormatError, kubenclave.VerificationError) as error:
        check(error, codes)


def check(error: kubenclave.KubenclaveError, codes: tuple[str, ...]) -> None:
    assert error.code in codes if codes else error.code
    assert len(str(error)) < 3000


def verify(quote: bytes, collateral: Collateral, root: bytes | None, **keywords: Any) -> None:
    with nothing_else():
        kubenclave.verify_quote(quote, collateral, at=AT, root=root, cache=CACHE, **keywords)


@given(data=st.data(), base=BASE)
def test_quotes(data, base):
    verify(data.draw(damaged(EVIDENCE[base].quote)), COLLATERAL[base], EVIDENCE[base].root)


@given(data=st.data(), base=BASE, name=st.sampled_from(sorted(EVIDENCE["sgx-v3"].collateral)))
def test_collateral_parts(data, base, name):
    changed = data.draw(damaged(getattr(COLLATERAL[base], name)))
    verify(EVIDENCE[base].quote, dataclasses.replace(COLLATERAL[base], **{name: changed}), EVIDENCE[base].root)


@given(data=st.data(), base=BASE)
def test_pck_chains_inside_the_certificates(data, base):
    # Damage below the base64, which would otherwise catch most of it.
    staged = scene(base)
    name = data.draw(st.sampled_from(["leaf", "ca", "root"]))
    blobs = {each: der(staged.certificate(each)) for each in ("leaf", "ca", "root")}
    blobs[name] = data.draw(damaged(blobs[name]))
    pem = [PEM_BEGIN + base64.encodebytes(blob) + PEM_END for blob in blobs.values()]
    staged.certification = (CertificationType.PCK_CERT_CHAIN, b"".join(pem))
    verify(staged.build().quote, COLLATERAL[base], EVIDENCE[base].root)


@given(data=st.data())
def test_roots(data):
    content = data.draw(damaged(PKI.root_der))
    verify(EVIDENCE["sgx-v3"].quote, COLLATERAL["sgx-v3"], content)
    with nothing_else("root.malformed"):
        TrustAnchor.from_certificate(content)


@given(data=st.data())
def test_json_objects(data):
    text = data.draw(damaged(json.dumps(EVIDENCE["sgx-v3"].collateral).encode()))
    for given_text in (text, text.decode("utf-8", "surrogateescape")):
        with nothing_else():
            Collateral.from_json(given_text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def edited(draw: st.DrawFn, document: Any) -> Any:
    """Return the document with one value somewhere in it replaced, removed or doubled."""
    if isinstance(document, dict) and document and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(document)))
        if draw(st.integers(0, 4)) == 0:
            return {name: value for name, value in document.items() if name != key}
        return {**document, key: draw(edited(document[key]))}
    if isinstance(document, list) and document and draw(st.booleans()):
        at = draw(st.integers(0, len(document) - 1))
        return [*document[:at], draw(edited(document[at])), *document[at + draw(st.integers(0, 1)) :]]
    return draw(JSON)


@given(data=st.data(), base=st.sampled_from(["sgx-v3", "tdx-v4"]))
def test_documents(data, base):
    staged = scene(base)
    for parse, document in ((TcbInfo.parse, staged.tcb_info), (EnclaveIdentity.parse, staged.qe_identity)):
        text = json.dumps(data.draw(edited(document)))
        with nothing_else():
            parse(text.encode())


POLICY = {
    "version": 1,
    "enclaves": [{"mr_enclave": "00" * 32}, {"mr_signer": "00" * 32, "isv_prod_id": 1, "min_isv_svn": 1}],
    "tcb_statuses": ["UpToDate"],
    "attributes": {"mask": "00" * 16, "value": "00" * 16},
    "report_data": "00",
    "max_collateral_age_days": 1,
    "dangerously_accept_expired_collateral_days": 1,
}


@given(data=st.data())
def test_policies(data):
    text = json.dumps(data.draw(edited(POLICY)))
    with nothing_else():
        policy = Policy.from_json(text)
        verify(EVIDENCE["sgx-v3"].quote, COLLATERAL["sgx-v3"], EVIDENCE["sgx-v3"].root, policy=policy)


@given(text=st.text(max_size=200))
@example(text="a=1979-05-27")
def test_policies_in_toml(text):
    with nothing_else("policy.malformed"):
        Policy.from_toml(text)


@given(data=st.data(), ca=st.sampled_from(list(PckCa)))
def test_sgx_extensions(data, ca):
    original = sgx_extension(sgx_entries(scene("sgx-v3", ca).extension))
    with nothing_else("pck.extension"):
        PckExtension.parse(data.draw(damaged(original)), ca)
