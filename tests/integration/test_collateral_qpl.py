# SPDX-License-Identifier: Apache-2.0
"""The requests of Intel's client (QPL with QCNL), byte for byte on the socket, and its rules for the answers.

Version 3.0 of its interface wants revocation lists in hex, 3.1 in DER and the root's by its address, which it does not
escape. Its rules: a chain ends in an escaped newline, names of headers have colon and blank behind them.
"""

import hashlib
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from kubenclave.platform.simulated.pki import derive_key
from kubenclave.platform.simulated.tcb import PCE_ID, PlatformTcb
from kubenclave.services.collateral.items import ROOT_CRL, ItemKey, Tee
from kubenclave.services.collateral.sources.base import PckAnswer
from kubenclave.wire.pcs import PckEntry
from tests import evidence
from tests.collateral_items import FMSPC_TEXT, ISSUER, offered
from tests.collateral_service import Bench, bench, serving

HELD = offered()
FMSPC = FMSPC_TEXT.upper()
CRASH = 65_533


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with bench(tmp_path) as made, serving(made.app) as port:
        yield port


def ask(port: int, target: str) -> tuple[int, dict[str, str], bytes]:
    """Send the request as the client's HTTP library does; headers by their names as they came."""
    request = f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\nAccept: */*\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        stream = connection.makefile("rb")
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().decode().rstrip("\r\n")) != "":
            name, separator, value = line.partition(": ")
            assert separator, f"the client looks for colon and blank: {line}"
            headers[name.lower()] = value
        return status, headers, stream.read(int(headers["content-length"]))


def chain(headers: dict[str, str], name: str) -> bytes:
    """What the client makes of a chain: it takes the last three characters off as the escaped newline."""
    value = headers[name]
    assert value[-3:] == "%0A"
    assert "+" not in value  # it leaves a plus sign as it is, where others read a blank
    pem = urllib.parse.unquote(value[:-3]).encode()
    assert pem.endswith(b"-----END CERTIFICATE-----")
    assert len(x509.load_pem_x509_certificates(pem)) == 2
    return pem + b"\n"


def point_of(pem: bytes) -> str:
    """The address of the root's list, out of the second certificate of a chain."""
    points = x509.load_pem_x509_certificates(pem)[1].extensions.get_extension_for_class(x509.CRLDistributionPoints)
    names = points.value[0].full_name
    assert names is not None
    return str(names[0].value)


def common(port: int, base: str, crl: bytes, crl_query: str) -> str:
    """Steps 1 to 3 of a verification; returns where the root's list is."""
    tee = Tee.TDX if base.startswith("/tdx") else Tee.SGX
    sgx = base.replace("/tdx/", "/sgx/", 1)
    status, headers, body = ask(port, f"{sgx}pckcrl?ca=platform{crl_query}")
    assert (status, body) == (200, crl)
    assert chain(headers, "sgx-pck-crl-issuer-chain") == HELD[ItemKey.pck_crl("platform")].issuer_chain
    status, headers, body = ask(port, f"{base}tcb?fmspc={FMSPC}&update=standard")
    info = HELD[ItemKey.tcb_info(tee, FMSPC)]
    assert (status, body) == (200, info.body)
    for name in ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"):
        assert chain(headers, name) == info.issuer_chain
        assert len(body) + len(headers[name]) < CRASH
    status, headers, body = ask(port, f"{base}qe/identity?update=standard")
    assert (status, body) == (200, HELD[ItemKey.identity(tee)].body)
    return point_of(chain(headers, "sgx-enclave-identity-issuer-chain"))


BASES = ["/sgx/certification/v4/", "/sgx/certification/v3/", "/tdx/certification/v4/"]


@pytest.mark.parametrize("base", BASES)
def test_a_verification_by_version_3_0(port: int, base: str):
    common(port, base, HELD[ItemKey.pck_crl("platform")].body.hex().encode(), "")
    status, headers, body = ask(port, f"{base.replace('/tdx/', '/sgx/')}rootcacrl")
    assert (status, body) == (200, HELD[ROOT_CRL].body.hex().encode())
    assert headers["content-type"] == "application/pkix-crl"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("custom", ["", "&customParameter=anything"])
def test_a_verification_by_version_3_1(port: int, base: str, custom: str):
    where = common(port, base, HELD[ItemKey.pck_crl("platform")].body, "&encoding=der" + custom)
    assert where == "https://simulated.invalid/IntelSGXRootCA.der"
    status, _, body = ask(port, f"{base.replace('/tdx/', '/sgx/')}crl?uri={where}{custom}")
    assert (status, body) == (200, HELD[ROOT_CRL].body)


PCK_KEY = derive_key(evidence.SEED, "PCK")
TCB = ISSUER.extension(PlatformTcb.UP_TO_DATE)
QE_ID = "0123456789ABCDEF" * 2


def certified(made: Bench) -> bytes:
    """Let the source know the platform; returns its certificate."""
    leaf, *issuers = ISSUER.pck_chain(PlatformTcb.UP_TO_DATE, PCK_KEY.public_key()).split(b"-----BEGIN")[1:]
    tcbm = TCB.cpu_svn + TCB.pce_svn.to_bytes(2, "little")
    pem = b"-----BEGIN" + leaf
    answer = PckAnswer((PckEntry(tcbm, pem),), b"".join(b"-----BEGIN" + one for one in issuers))
    made.source.certificates[QE_ID] = answer
    return pem


def pck_query(qe_id: str = QE_ID, cpu_svn: bytes = TCB.cpu_svn) -> str:
    return (
        f"pckcert?qeid={qe_id}&encrypted_ppid={'00' * 384}&cpusvn={cpu_svn.hex().upper()}"
        f"&pcesvn={TCB.pce_svn.to_bytes(2, 'little').hex().upper()}&pceid={PCE_ID.hex().upper()}"
    )


@pytest.mark.parametrize("base", BASES[:2])
def test_a_quoting_enclave_gets_its_certificate(tmp_path: Path, base: str):
    with bench(tmp_path) as made, serving(made.app) as port:
        leaf = certified(made)
        status, headers, body = ask(port, base + pck_query())
        assert (status, body, headers["content-type"]) == (200, leaf, "application/x-pem-file")
        assert headers["sgx-tcbm"] == (TCB.cpu_svn + TCB.pce_svn.to_bytes(2, "little")).hex().upper()
        assert (headers["sgx-fmspc"], headers["sgx-pck-certificate-ca-type"]) == (FMSPC, "platform")
        assert len(x509.load_pem_x509_certificates(chain(headers, "sgx-pck-certificate-issuer-chain"))) == 2
        status, headers, _ = ask(port, base + pck_query(qe_id="FF" * 16))
        assert (status, headers["kubenclave-error-code"]) == (461, "pck.unknown-platform")
        status, headers, _ = ask(port, base + pck_query(cpu_svn=bytes(16)))
        assert (status, headers["kubenclave-error-code"]) == (462, "pck.not-available")


def test_an_answer_ends_with_its_length_so_that_nobody_waits(port: int):
    for target in ("/sgx/certification/v4/rootcacrl", "/sgx/certification/v4/tcb?fmspc=1", "/nothing"):
        _, headers, body = ask(port, target)
        assert int(headers["content-length"]) == len(body)


def test_the_bytes_of_an_answer_are_the_same_each_time(port: int):
    target = f"/sgx/certification/v4/tcb?fmspc={FMSPC}&update=standard"
    digests = {hashlib.sha256(ask(port, target)[2]).hexdigest() for _ in range(3)}
    assert len(digests) == 1
