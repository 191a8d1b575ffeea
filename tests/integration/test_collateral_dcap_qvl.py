# SPDX-License-Identifier: Apache-2.0
"""dcap-qvl, as it is, gets its collateral from our service and verifies with it, over HTTP and HTTPS."""

import asyncio
import datetime as dt
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kubenclave.dcap.anchor import intel_root
from kubenclave.dcap.collateral import Collateral
from kubenclave.services.collateral.assemble import collateral_for
from kubenclave.services.collateral.items import ROOT_CRL, ItemKey, Tee
from kubenclave.services.collateral.sources.flat import items_of
from tests import evidence, samples
from tests.collateral_items import FMSPC_TEXT
from tests.collateral_service import Bench, bench, serving

GIVEN = evidence.make()
SECONDS = int(evidence.NOW.timestamp())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


def verified(collateral: dcap_qvl.QuoteCollateralV3) -> dcap_qvl.VerifiedReport:
    return dcap_qvl.verify_with_root_ca(GIVEN.quote, collateral, GIVEN.root, SECONDS)


async def fetched(url: str) -> dcap_qvl.QuoteCollateralV3:
    return await dcap_qvl.get_collateral(url, GIVEN.quote)


@pytest.mark.parametrize("path", ["", "/", "/sgx/certification/v4", "/sgx/certification/v4/"])
def test_collateral_over_http_is_what_verifies(served: Bench, path: str):
    with serving(served.app) as port:
        collateral = asyncio.run(fetched(f"http://127.0.0.1:{port}{path}"))
    assert verified(collateral).status == "UpToDate"
    with asyncio.Runner() as runner:
        ours = runner.run(collateral_for(served.service.cache.get, tee=Tee.SGX, fmspc=FMSPC_TEXT, ca="platform"))
    theirs = Collateral.from_json(collateral.to_json())
    assert (theirs.tcb_info, theirs.tcb_info_signature) == (ours.tcb_info, ours.tcb_info_signature)
    assert (theirs.qe_identity, theirs.pck_crl, theirs.root_ca_crl) == (
        ours.qe_identity,
        ours.pck_crl,
        ours.root_ca_crl,
    )
    assert theirs.tcb_info_issuer_chain == ours.tcb_info_issuer_chain
    assert theirs.pck_crl_issuer_chain == ours.pck_crl_issuer_chain


@pytest.mark.parametrize("kind", ["v4-tdx", "v5-tdx-1.5"])
def test_a_td_gets_collateral_of_its_own(served: Bench, kind: str):
    version, body = samples.QUOTES[kind]
    section = samples.signature_section(version, certification=GIVEN.chain + b"\0")
    quote = samples.quote(version, body, section)  # nothing in it is signed: the client looks for FMSPC and CA only

    async def fetch() -> dcap_qvl.QuoteCollateralV3:
        return await dcap_qvl.get_collateral(f"http://127.0.0.1:{port}", quote)

    with serving(served.app) as port:
        theirs = Collateral.from_json(asyncio.run(fetch()).to_json())
    held = served.source.held
    assert held[ItemKey.tcb_info(Tee.TDX, FMSPC_TEXT)].body.startswith(b'{"tcbInfo":' + theirs.tcb_info)
    assert held[ItemKey.identity(Tee.TDX)].body.startswith(b'{"enclaveIdentity":' + theirs.qe_identity)
    assert (theirs.root_ca_crl, theirs.pck_crl) == (
        held[ROOT_CRL].body,
        held[ItemKey.pck_crl("platform")].body,
    )


REAL = ("sgx-v3-config-and-swhardening", "sgx-v3-outofdate", "tdx-v4-uptodate", "tdx-v4-outofdate", "tdx-v5-uptodate")


@pytest.mark.parametrize("case", REAL)
def test_real_quotes_verify_with_what_we_serve_of_intels_collateral(tmp_path: Path, shared_data: Path, case: str):
    """Signed by Intel, SGX and TDX: taken in, stored, served, fetched by somebody else's client, and judged by it."""
    folder = shared_data / "quotes" / case
    quote, expected = (folder / "quote.bin").read_bytes(), json.loads((folder / "expected.json").read_text())
    given = Collateral.from_json((folder / "collateral.json").read_bytes())
    at = dt.datetime.fromtimestamp(expected["verify_at"], dt.UTC)

    async def fetch() -> dcap_qvl.QuoteCollateralV3:
        return await dcap_qvl.get_collateral(f"http://127.0.0.1:{port}", quote)

    with bench(tmp_path, at, held=items_of(given), anchor=intel_root()) as made, serving(made.app) as port:
        fetched = asyncio.run(fetch())
    theirs = Collateral.from_json(fetched.to_json())
    for name in ("tcb_info", "qe_identity", "tcb_info_signature", "qe_identity_signature", "pck_crl", "root_ca_crl"):
        assert getattr(theirs, name) == getattr(given, name)
    report = dcap_qvl.verify(quote, fetched, expected["verify_at"])
    assert report.status == expected["tcb_status"]


def test_what_we_refuse_is_an_error_there(served: Bench):
    served.source.held.clear()
    with serving(served.app) as port, pytest.raises((RuntimeError, ValueError), match="404"):
        asyncio.run(fetched(f"http://127.0.0.1:{port}"))


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A certificate for localhost that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "tls.pem", folder / "tls.key"
    public.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public


CLIENT = """
import asyncio, os, sys, dcap_qvl
quote = open(sys.argv[2], "rb").read()
async def get():
    return await dcap_qvl.get_collateral(sys.argv[1], quote)
print(asyncio.run(get()).to_json(), flush=True)
os._exit(0)  # threads of its runtime crash some interpreters that end in order
"""


def test_collateral_over_https_with_a_ca_of_ones_own(served: Bench, tmp_path: Path):
    context, public = certificate(tmp_path)
    quote = tmp_path / "quote.bin"
    quote.write_bytes(GIVEN.quote)
    with serving(served.app, context) as port:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, f"https://localhost:{port}", str(quote)],
            env={**os.environ, "SSL_CERT_FILE": str(public)},  # read once in a process: hence one of its own
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        trusting = ssl.create_default_context(cafile=str(public))
        url = f"https://localhost:{port}/sgx/certification/v4/rootcacrl"
        with urllib.request.urlopen(url, context=trusting) as answer:
            assert answer.status == 200
    assert done.returncode == 0, done.stderr
    assert verified(dcap_qvl.QuoteCollateralV3.from_json(done.stdout)).status == "UpToDate"
