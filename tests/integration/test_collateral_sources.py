# SPDX-License-Identifier: Apache-2.0
"""Sources of collateral against a real HTTP server: what comes, and what each failure is called."""

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.errors import FormatError, KubenclaveError, TrustError, UsageError
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PlatformTcb
from kubenclave.services.collateral.ingest import check
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, STANDARD, Item, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import PckRequest, Source, SourceError, UnknownError
from kubenclave.services.collateral.sources.http import retry_after
from kubenclave.services.collateral.sources.intel import IntelSource
from kubenclave.services.collateral.sources.pccs import PccsSource
from kubenclave.services.collateral.sources.thim import ThimSource
from tests.pcs_upstream import ENCRYPTED_PPID, OTHER_FMSPC, QE_ID, RETRY_AFTER, THIM, Fault, Upstream, tcbm_of

TCB_INFO = ItemKey.tcb_info(Tee.SGX, FMSPC.hex())
ITEMS = [
    ItemKey.pck_crl("processor"),
    ItemKey.pck_crl("platform"),
    TCB_INFO,
    ItemKey.tcb_info(Tee.SGX, OTHER_FMSPC.hex(), EARLY),
    ItemKey.tcb_info(Tee.TDX, FMSPC.hex()),
    ItemKey.tcb_info(Tee.TDX, FMSPC.hex(), "17"),
    ItemKey.identity(Tee.SGX),
    ItemKey.identity(Tee.TDX),
    ItemKey.identity(Tee.SGX, "qve"),
    ItemKey.identity(Tee.SGX, "qae", "18"),
    ItemKey(Kind.EVALUATION_NUMBERS),
    ItemKey(Kind.EVALUATION_NUMBERS, tee=Tee.TDX),
    ItemKey(Kind.FMSPCS),
]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def intel(upstream: Upstream, **options: Any) -> IntelSource:
    return IntelSource(url=upstream.url, root_crl_url=f"{upstream.url}/IntelSGXRootCA.der", **options)


def pccs(upstream: Upstream) -> PccsSource:
    return PccsSource("pccs", url=f"{upstream.url}/sgx/certification/v4/")


def thim(upstream: Upstream) -> ThimSource:
    return ThimSource(url=upstream.url + THIM)


def run(source: Source, question: Callable[[], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        try:
            return await question()
        finally:
            await source.close()

    return asyncio.run(whole())


def fetch(source: Source, key: ItemKey) -> Any:
    return run(source, lambda: source.fetch(key))


def failure(source: Source, key: ItemKey = TCB_INFO) -> KubenclaveError:
    with pytest.raises(KubenclaveError) as caught:
        fetch(source, key)
    return caught.value


def checked(upstream: Upstream, key: ItemKey, fetched: Any, root_crl: Item | None) -> Item:
    now = dt.datetime.now(dt.UTC)
    anchor = TrustAnchor.from_certificate(upstream.root_der)
    return check(
        key, fetched.body, fetched.issuer_chain, anchor=anchor, now=now, root_crl=root_crl, source="x", fetched=now
    )


@pytest.mark.parametrize("make", [intel, pccs, thim])
def test_every_item_comes_and_holds_under_the_root(upstream: Upstream, make: Callable[[Upstream], Source]):
    root_crl = checked(upstream, ROOT_CRL, fetch(make(upstream), ROOT_CRL), None)
    for key in ITEMS:
        item = checked(upstream, key, fetch(make(upstream), key), root_crl)
        assert item.key == key
        assert item.number == {STANDARD: 17, EARLY: 18, "17": 17, "18": 18}.get(key.update, 0)


def test_pccs_of_version_3_knows_sgx_alone(upstream: Upstream):
    source = PccsSource("old", url=f"{upstream.url}/sgx/certification/v3/")
    assert fetch(source, TCB_INFO).body.startswith(b'{"tcbInfo":')
    assert upstream.requests[-1].path == "/sgx/certification/v3/tcb"
    old = PccsSource("old", url=f"{upstream.url}/sgx/certification/v3/")
    assert failure(old, ItemKey.tcb_info(Tee.TDX, FMSPC.hex())).code == "collateral.unknown"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.NOT_FOUND, "collateral.unknown"),
        (Fault.GONE, "collateral.unknown"),
        (Fault.UNAUTHORIZED, "source.unauthorized"),
        (Fault.REFUSED, "source.refused"),
        (Fault.FAILED, "source.failed"),
        (Fault.TRUNCATED, "source.unreachable"),
        (Fault.HANG_UP, "source.unreachable"),
        (Fault.HUGE, "source.too-large"),
        (Fault.NO_CHAIN, "source.header"),
        (Fault.REDIRECT_AWAY, "source.redirect"),
        (Fault.REDIRECT_CIRCLE, "source.redirect"),
    ],
)
def test_failures_are_told_apart(upstream: Upstream, fault: Fault, code: str):
    upstream.faults["/tcb"] = fault
    error = failure(intel(upstream))
    assert error.code == code
    assert isinstance(error, UnknownError) is (code == "collateral.unknown")


@pytest.mark.parametrize("fault", [Fault.RATE_LIMITED, Fault.BUSY])
def test_a_source_that_wants_a_rest_says_for_how_long(upstream: Upstream, fault: Fault):
    upstream.faults["/tcb"] = fault
    error = failure(intel(upstream))
    assert isinstance(error, SourceError)
    assert (error.code, error.retry_after) == ("source.rate-limited", dt.timedelta(seconds=RETRY_AFTER))


def test_a_slow_source_is_given_up(upstream: Upstream):
    upstream.faults["/tcb"] = Fault.SLOW
    assert failure(intel(upstream, total_seconds=0.2)).code == "source.timeout"


def test_a_redirect_on_the_same_host_is_followed(upstream: Upstream):
    upstream.faults["/tcb"] = Fault.REDIRECT_HERE
    assert fetch(intel(upstream), TCB_INFO).body.startswith(b'{"tcbInfo":')
    assert upstream.requests[-1].path.startswith("/moved")


def test_no_dns_no_listener_no_tls(upstream: Upstream):
    assert failure(PccsSource("x", url="http://collateral.invalid")).code == "source.dns"
    assert failure(PccsSource("x", url="http://127.0.0.1:1")).code == "source.unreachable"
    assert failure(PccsSource("x", url=upstream.url.replace("http:", "https:"))).code == "source.tls"


def test_a_proxy_of_the_environment_is_used(upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    source = PccsSource("x", url="http://collateral.invalid")
    assert failure(source).code == "source.unreachable"  # it is the proxy that is not there: no name was looked up
    assert upstream.requests == []


@pytest.mark.parametrize(
    "fault", [Fault.WRONG_SIGNATURE, Fault.STALE, Fault.OTHER_PLATFORM, Fault.GARBAGE], ids=lambda fault: fault.name
)
def test_what_is_not_good_is_refused_on_entry(upstream: Upstream, fault: Fault):
    root_crl = checked(upstream, ROOT_CRL, fetch(intel(upstream), ROOT_CRL), None)
    upstream.faults |= {"/tcb": fault, "identity": fault, "pckcrl": fault}
    for key in (TCB_INFO, ItemKey.identity(Tee.SGX), ItemKey.pck_crl("platform")):
        if key.kind is Kind.PCK_CRL and fault is Fault.OTHER_PLATFORM:
            continue
        with pytest.raises((TrustError, FormatError)):
            checked(upstream, key, fetch(intel(upstream), key), root_crl)


def request(tcb: PlatformTcb = PlatformTcb.UP_TO_DATE, **changes: Any) -> PckRequest:
    tcbm = tcbm_of(tcb)
    given = {
        "qe_id": QE_ID,
        "pce_id": PCE_ID,
        "cpu_svn": tcbm[:16],
        "pce_svn": tcbm[16:],
        "encrypted_ppid": ENCRYPTED_PPID,
    }
    return PckRequest(**(given | changes))


def test_intel_gives_all_certificates_of_a_platform(upstream: Upstream, tmp_path: Path):
    key_file = tmp_path / "key"
    key_file.write_text("the key\n")
    upstream.world.not_available = frozenset({PlatformTcb.OUT_OF_DATE})
    source = intel(upstream, api_key_file=key_file)
    answer = run(source, lambda: source.pck_certs(request()))
    held = {entry.tcbm: entry.cert for entry in answer.entries}
    assert held[tcbm_of(PlatformTcb.OUT_OF_DATE)] is None
    assert held[tcbm_of(PlatformTcb.UP_TO_DATE)].startswith(b"-----BEGIN CERTIFICATE-----")
    assert upstream.requests[-1].headers["ocp-apim-subscription-key"] == "the key"
    by_manifest = intel(upstream)
    wanted = request(encrypted_ppid=None, manifest="00")
    assert run(by_manifest, lambda: by_manifest.pck_certs(wanted)) == answer
    assert "ocp-apim-subscription-key" not in upstream.requests[-1].headers


def test_the_api_key_goes_with_nothing_else(upstream: Upstream, tmp_path: Path):
    fetch(intel(upstream, api_key_file=tmp_path / "absent"), TCB_INFO)
    assert "ocp-apim-subscription-key" not in upstream.requests[-1].headers
    source = intel(upstream, api_key_file=tmp_path / "absent")
    with pytest.raises(UsageError, match="API key"):
        run(source, lambda: source.pck_certs(request()))


def test_intel_cannot_tell_a_platform_by_its_qe_id(upstream: Upstream):
    source = intel(upstream)
    with pytest.raises(UnknownError):
        run(source, lambda: source.pck_certs(request(encrypted_ppid=None)))


@pytest.mark.parametrize("make", [pccs, thim])
def test_caches_give_the_certificate_for_one_tcb(upstream: Upstream, make: Callable[[Upstream], Source]):
    source = make(upstream)
    answer = run(source, lambda: source.pck_certs(request(PlatformTcb.OUT_OF_DATE)))
    (entry,) = answer.entries
    assert entry.tcbm == tcbm_of(PlatformTcb.OUT_OF_DATE)
    assert answer.issuer_chain.count(b"BEGIN CERTIFICATE") == 2
    other = make(upstream)
    with pytest.raises(UnknownError):
        run(other, lambda: other.pck_certs(request(qe_id="00")))


def test_azure_has_numbers_the_other_way_round(upstream: Upstream):
    source = thim(upstream)
    run(source, lambda: source.pck_certs(request()))
    asked = upstream.requests[-1]
    assert asked.query["pcesvn"] == "000d"
    assert asked.query["api-version"] == "2021-07-22-preview"
    assert asked.headers["metadata"] == "true"


def test_an_answer_that_is_not_azures(upstream: Upstream):
    upstream.faults["pckcert"] = Fault.GARBAGE
    source = thim(upstream)
    with pytest.raises(FormatError, match="Azure"):
        run(source, lambda: source.pck_certs(request()))


@pytest.mark.parametrize(
    "url", ["ftp://x", "https://", "https://a:b@c", "https://x?y", "https://x#y", "x", "https://x:99999"]
)
def test_urls_that_are_none(url: str):
    with pytest.raises(UsageError, match="URL"):
        PccsSource("x", url=url)


def test_a_ca_file_that_is_none(tmp_path: Path):
    with pytest.raises(UsageError, match="CA"):
        PccsSource("x", url="https://localhost", ca_file=tmp_path / "absent")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999", 86400),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
        ("Thu, 01 Jan 2025 00:00:30 GMT", 0),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_retry_after(value: str, seconds: int | None):
    wait = retry_after(value, "Thu, 01 Jan 2026 00:00:00 GMT")
    assert wait == (None if seconds is None else dt.timedelta(seconds=seconds))


class _Refusing(BaseHTTPRequestHandler):
    """A proxy that lets nobody through."""

    def do_CONNECT(self) -> None:
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("refusing_proxy")
def test_a_proxy_that_does_not_connect():
    error = failure(PccsSource("x", url="https://collateral.invalid"))
    assert error.code == "source.proxy"
    assert "407" in str(error)


def test_caches_are_not_asked_without_a_qe_id(upstream: Upstream):
    for make in (pccs, thim):
        source: Source = make(upstream)
        with pytest.raises(UnknownError):
            run(source, partial(source.pck_certs, request(qe_id="")))
    assert upstream.requests == []


def test_a_source_that_trickles_is_given_up_as_well(upstream: Upstream):
    upstream.faults["/tcb"] = Fault.TRICKLE
    assert failure(intel(upstream, total_seconds=0.3)).code == "source.timeout"


def own_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a certificate that vouches for itself, as PCCS makes one, and a server with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pccs")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path, both = folder / "pccs.crt", folder / "both.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both.write_bytes(path.read_bytes() + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return path, context


def test_tls_is_verified_and_a_cache_may_vouch_for_itself(tmp_path: Path):
    path, context = own_certificate(tmp_path)
    with Upstream(tls=context) as upstream:
        assert failure(PccsSource("x", url=upstream.url)).code == "source.tls"
        assert fetch(PccsSource("x", url=upstream.url, ca_file=path), TCB_INFO).body.startswith(b'{"tcbInfo":')
        other_name = upstream.url.replace("127.0.0.1", "localhost")
        assert failure(PccsSource("x", url=other_name, ca_file=path)).code == "source.tls"
