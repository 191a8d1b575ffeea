# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: for each parser a function that takes any bytes, and bytes worth changing.

For whatever input a function returns or raises the errors its target names. Anything else is a bug: the parser raised
another error, or what it read does not lead back to the same bytes. Both hypothesis (``test_fuzz_*.py``) and atheris
(``atheris_runner.py``) run them.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from cryptography import x509

from kubenclave.cluster.admission import Site, admit
from kubenclave.cluster.webhook.review import Outcome, answer
from kubenclave.dcap import cbor
from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.azurepolicy import is_reserved, parse
from kubenclave.dcap.azurepolicy.functions import call
from kubenclave.dcap.azurepolicy.work import EvaluationFailedError, Work
from kubenclave.dcap.binding import bound_key
from kubenclave.dcap.collateral import Collateral, load_json
from kubenclave.dcap.documents import EnclaveIdentity, TcbInfo
from kubenclave.dcap.pckext import PckCa, PckExtension
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.ratls import RaTlsCertificate
from kubenclave.dcap.token.compact import CompactToken
from kubenclave.dcap.verdict import verify_quote
from kubenclave.errors import FormatError, KubenclaveError, PolicyError, TrustError, UsageError, VerificationError
from kubenclave.local import control, manifest
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.services.attestation.azure.signed import open_token
from kubenclave.services.attestation.evidence import MAX_QUOTE
from kubenclave.services.attestation.release.rules import recipient
from kubenclave.services.attestation.relying import Rules, parse_jwks, verify_token
from kubenclave.services.attestation.requests import AttestRequest, evidence_of, read
from kubenclave.services.attestation.transparency.checkpoint import InclusionReceipt, LogKey, open_checkpoint
from kubenclave.services.attestation.transparency.tiles import Tile
from kubenclave.services.collateral.sources.thim import read_certificate
from kubenclave.sgx.certification import CertificationType, Ppid
from kubenclave.sgx.gramine import GramineEnclave
from kubenclave.sgx.keyrequest import KeyRequest
from kubenclave.sgx.measure import measure_sgxs
from kubenclave.sgx.quote import Quote, signed_part
from kubenclave.sgx.report import Report, ReportBody, TargetInfo
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import Sigstruct
from kubenclave.sgx.tdreport import TdReport10, TdReport15, TdReport15Ex
from kubenclave.wire import aesm, maa, pcs, quoteworker, simcpu
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import build_key_id_list, parse_key_id_list
from kubenclave.wire.frames import FrameDecoder
from tests import samples
from tests.evidence import NOW
from tests.fuzz import brought, seeds

Run = Callable[[bytes], object]
_MANY_PAGES: Final = 2000


@dataclass(frozen=True)
class Target:
    """One parser: what to run, inputs that get through it, and the errors with which it may refuse others."""

    run: Run
    seeds: Sequence[bytes]
    refusals: tuple[type[Exception], ...] = (FormatError,)

    def check(self, data: bytes) -> None:
        """Raise what only a bug raises."""
        with suppress(*self.refusals):
            self.run(data)


def quote(data: bytes) -> None:
    """A quote leads back to its bytes; what is signed is made of what was read."""
    parsed = Quote.parse(data)
    assert data.startswith(parsed.build())
    assert signed_part(parsed.header, parsed.body_type, parsed.body) == parsed.signed
    certification = parsed.signature.certification_data
    ppid = certification.ppid
    assert ppid is None or ppid.build() == certification.data
    assert certification.pck_chain is None or certification.data.startswith(certification.pck_chain)


def structure(kind: Any) -> Run:
    """A structure of fixed size leads back to its bytes."""

    def run(data: bytes) -> None:
        assert kind.parse(data).build() == data

    return run


def ppid(data: bytes) -> None:
    """Content of certification data leads back to its bytes."""
    kind = {36: CertificationType.PPID_CLEARTEXT, 276: CertificationType.PPID_RSA2048_ENCRYPTED}.get(len(data))
    assert Ppid.parse(kind or CertificationType.PPID_RSA3072_ENCRYPTED, data).build() == data


def sigstruct(data: bytes) -> None:
    """A SIGSTRUCT leads back to its bytes and is genuine or not, but nothing else."""
    parsed = Sigstruct.parse(data)
    assert parsed.build() == data
    assert json.dumps(parsed.as_dict())
    parsed.check()


def sec_info(data: bytes) -> None:
    """What EADD makes of SECINFO, it leaves alone when it sees it again."""
    added = SecInfo.parse(data).as_added()
    assert added.as_added() == added


def sgxs(data: bytes) -> None:
    """A stream is measured or refused."""
    measurement = measure_sgxs(data)
    assert measurement.pages <= measurement.size // 4096


def gramine_manifest(data: bytes) -> None:
    """A manifest becomes an enclave that fits its size, and a SIGSTRUCT, or is refused."""
    _gramine(data, samples.PAL)


def gramine_pal(data: bytes) -> None:
    """So does a PAL."""
    _gramine(b'[sgx]\nenclave_size = "16M"\nmax_threads = 1\n', data)


def _gramine(text: bytes, pal: bytes) -> None:
    enclave = GramineEnclave.parse(text, pal)
    assert 0 < enclave.pages * 4096 <= enclave.size
    if enclave.pages < _MANY_PAGES:
        assert len(enclave.sigstruct().build()) == 1808


def aesm_request(data: bytes) -> None:
    """A request can be refused in its own variant, and survives the wire."""
    request = aesm.decode_request(data)
    assert aesm.encode_reply(aesm.Refusal(request, AesmError.BUSY))
    assert aesm.decode_request(aesm.encode_request(request)[4:]) == request


def aesm_reply(data: bytes) -> None:
    """A reply is read as one to each request, or refused."""
    for request in (aesm.GetKeyIdCount(), aesm.GetKeyIds(256), aesm.InitQuote(b"k" * 256), aesm.GetQuote(b"", b"", 0)):
        with suppress(FormatError):
            reply = aesm.decode_reply(data, request)
            assert isinstance(reply, aesm.Refusal) or aesm.decode_reply(aesm.encode_reply(reply)[4:], request) == reply


def key_ids(data: bytes) -> None:
    """A list of key ids leads back to its bytes."""
    assert build_key_id_list(parse_key_id_list(data)) == data


def worker_stream(data: bytes) -> None:
    """A stream is cut into the same frames however it arrives; payloads lead back to their bytes."""
    for decode in (quoteworker.decode_request, quoteworker.decode_reply):
        assert _cut(decode, data, len(data) or 1) == _cut(decode, data, 7)
    for kind in (quoteworker.InitResult, quoteworker.QuoteRequest, quoteworker.QuoteResult):
        with suppress(FormatError):
            structure(kind)(data)


def cpu_stream(data: bytes) -> None:
    """A stream is cut into the same frames however it arrives; requests and replies survive the wire."""
    for decode in (simcpu.decode_request, simcpu.decode_reply):
        assert _cut(decode, data, len(data) or 1) == _cut(decode, data, 7)
    with suppress(FormatError):
        request = simcpu.decode_request(data)
        assert simcpu.decode_request(simcpu.encode_request(request)) == request
    with suppress(FormatError):
        reply = simcpu.decode_reply(data)
        assert reply.reason.isprintable()
        if reply.code is simcpu.Code.SUCCESS:
            assert simcpu.decode_reply(simcpu.encode_reply(reply)) == reply
        with suppress(FormatError):
            assert reply.check(simcpu.GetStatus()) is reply.result
            structure(simcpu.CpuStatus)(reply.result)
        with suppress(FormatError):
            structure(simcpu.Sections)(reply.result)


def _cut(decode: Callable[[bytes], Any], data: bytes, size: int) -> list[object]:
    decoder = FrameDecoder(decode, limit=2000)
    found: list[object] = []
    try:
        for start in range(0, len(data), size):
            found += decoder.feed(data[start : start + size])
            assert decoder.pending < 2004
    except FormatError:
        return []  # where a stream loses its meaning, what came before in the same piece is lost with it
    return found


def collateral(data: bytes) -> None:
    """Collateral survives its own JSON, and its digest with it."""
    parsed = Collateral.from_json(data)
    again = Collateral.from_json(parsed.to_json())
    assert (again, again.digest) == (parsed, parsed.digest)


def tcb_info(data: bytes) -> None:
    """Levels of TCB info come out in descending order."""
    levels = TcbInfo.parse(data).levels
    assert levels
    assert all(one.svns >= other.svns for one, other in pairwise(levels))


def qe_identity(data: bytes) -> None:
    """An identity has levels, in descending order."""
    levels = EnclaveIdentity.parse(data).levels
    assert levels
    assert all(one.svns >= other.svns for one, other in pairwise(levels))


def policy_json(data: bytes) -> None:
    """A policy wants something."""
    _use(Policy.from_json(data))


def policy_toml(data: bytes) -> None:
    """A policy wants something."""
    _use(Policy.from_toml(data.decode(errors="replace")))


def _use(policy: Policy) -> None:
    assert policy.enclaves
    assert policy.expected_report_data is None or len(policy.expected_report_data) == 64
    assert policy.grace.days >= 0


def azure_policy(data: bytes) -> None:
    """A policy decides, always the same; what it issues is JSON and no name of the service's."""
    policy = parse(data.decode(errors="replace"))
    evaluation = policy.evaluate(seeds.AZURE_CLAIMS)
    assert evaluation == policy.evaluate(seeds.AZURE_CLAIMS)
    assert evaluation.permitted or not evaluation.issued
    assert not any(is_reserved(name) for name in evaluation.issued)
    assert json.dumps(evaluation.issued).encode()


def azure_query(data: bytes) -> None:
    """A query comes to JSON or fails; it never takes more than its share of work."""
    (found,) = call("JmesPath", ((seeds.AZURE_DOCUMENT,), (data.decode(errors="replace"),)), Work(20_000))
    assert json.loads(str(found)) is not NotImplemented


def pck_extension(data: bytes) -> None:
    """An extension is one CA's or the other's, never both."""
    try:
        assert len(PckExtension.parse(data, PckCa.PLATFORM).components) == 16
    except FormatError:
        PckExtension.parse(data, PckCa.PROCESSOR)
        return
    with suppress(FormatError):
        PckExtension.parse(data, PckCa.PROCESSOR)
        raise AssertionError("both read it")


def root_certificate(data: bytes) -> None:
    """A root has a P-256 key."""
    assert len(TrustAnchor.from_certificate(data).point) in (64, 65)


def verify(data: bytes) -> None:
    """A changed quote is accepted only where the change is to bytes that nobody signs."""
    evidence = seeds.EVIDENCE
    verify_quote(data, evidence.collateral, at=NOW, root=evidence.root, pck_chain=evidence.chain)
    good, found = Quote.parse(evidence.quote), Quote.parse(data)
    assert found.signed == good.signed
    assert found.signature.attestation_key == good.signature.attestation_key
    assert found.signature.qe_report == good.signature.qe_report
    assert found.signature.qe_auth_data == good.signature.qe_auth_data


def verify_collateral(data: bytes) -> None:
    """Changed collateral is accepted only where the change is to bytes that nobody signs."""
    evidence, changed = seeds.EVIDENCE, Collateral.from_json(data)
    verify_quote(evidence.quote, changed, at=NOW, root=evidence.root)
    for name in ("tcb_info", "qe_identity", "root_ca_crl", "pck_crl"):
        assert getattr(changed, name) == getattr(evidence.collateral, name)


def verify_chain(data: bytes) -> None:
    """A changed PCK chain is accepted only where the change is to its copy of the root, or outside of certificates."""
    evidence = seeds.EVIDENCE_WITHOUT_CHAIN
    verdict = verify_quote(evidence.quote, evidence.collateral, at=NOW, root=evidence.root, pck_chain=data)
    chain = verdict.verified.chain
    assert [chain.leaf.raw, chain.ca.raw] == x509.load_pem_x509_certificates(evidence.chain)[:2]


def platform_state(data: bytes) -> None:
    """The state of a simulated platform survives its file."""
    state = PlatformState.from_json(data)
    assert PlatformState.from_json(state.to_json()) == state


def pod_yaml(data: bytes) -> None:
    """A manifest is a pod that can run here, or is refused with the reason."""
    pod(manifest.from_yaml(data))


def pod_json(data: bytes) -> None:
    """The same from JSON, whatever its shape."""
    document = load_json(data, "pod")
    if isinstance(document, dict):
        pod(document)


def admission_review(data: bytes) -> None:
    """A review is answered, whatever the pod in it, or is none."""
    given = answer(data, Site())
    assert json.loads(given.body)["response"]["allowed"] is (given.outcome is not Outcome.REFUSED)


def pod(document: dict[str, Any]) -> None:
    """Admission changes nothing when it is applied again; what is admitted can be started or is refused."""
    before = json.dumps(document, default=str)
    admitted = admit(document)
    assert json.dumps(document, default=str) == before
    assert admitted.epc >= 0
    assert admit(admitted.pod).pod == admitted.pod
    assert all(program.argv for program in manifest.programs(admitted.pod))
    assert all(manifest.remarks(admitted.pod))
    assert 0 <= manifest.grace(admitted.pod) <= manifest.MAX_GRACE


def control_line(data: bytes) -> None:
    """A line is a request, a reply or neither; refusals become errors."""
    with suppress(FormatError):
        request = control.decode_request(data)
        assert control.decode_request(control.encode(request)) == request
    with suppress(FormatError):
        reply = control.decode_reply(data)
        assert control.decode_reply(control.encode(reply)) == reply
        if isinstance(reply, control.Refused):
            assert isinstance(control.as_error(reply), KubenclaveError)


_COLLATERAL: Final = seeds.EVIDENCE.collateral.to_json().encode()
_REFUSALS: Final = (FormatError, PolicyError, UsageError)


def token(data: bytes) -> None:
    """A token is read from its own bytes; only the one that the key signed is good."""
    assert CompactToken.parse(data).text.encode() in data
    assert verify_token(data, parse_jwks(seeds.JWKS), _TOKEN_RULES, now=NOW).token.text.encode() in seeds.TOKENS


def log_head(data: bytes) -> None:
    """A head is the log's own, or refused; so is its key."""
    key = LogKey.parse(seeds.LOG_KEY)
    assert str(LogKey.parse(str(key))) == str(key)
    assert open_checkpoint(data.decode("utf-8", "replace"), key).size == 1


def log_receipt(data: bytes) -> None:
    """A receipt leads back to its text, but for what is signed by nobody."""
    receipt = InclusionReceipt.parse(data.decode("utf-8", "replace"))
    assert InclusionReceipt.parse(receipt.text) == receipt
    receipt.check(b"entry", LogKey.parse(seeds.LOG_KEY))


def log_key(data: bytes) -> None:
    """A key of a log leads back to its text."""
    key = LogKey.parse(data.decode("utf-8", "replace"))
    assert LogKey.parse(str(key)) == key


def log_tile(data: bytes) -> None:
    """A path names a tile whose place SQLite can hold."""
    tile = Tile.parse(data.decode("utf-8", "replace"))
    assert 0 <= tile.start < 1 << 62
    assert 1 <= tile.width <= 256


def recipient_key(data: bytes) -> None:
    """Runtime data holds a key that something can be encrypted to, or is refused."""
    assert recipient(bound_key(data)).thumbprint()


def jwks(data: bytes) -> None:
    """A token is checked with whatever key there is."""
    verify_token(seeds.TOKENS[0], parse_jwks(data), _TOKEN_RULES, now=NOW)


def ra_tls(data: bytes) -> None:
    """Only evidence in a certificate that signed itself is read."""
    read = RaTlsCertificate.parse(data)
    assert read.quote in seeds.RA_TLS_QUOTES
    assert read.bound in ([read.public_key_info] if read.form == "legacy" else seeds.RA_TLS_CLAIMS)


def cbor_value(data: bytes) -> None:
    """Reading ends, whatever is nested in what."""
    cbor.decode(data)


def attest_request(data: bytes) -> None:
    """A request becomes evidence that is bounded, or is refused; verdicts are for others."""
    assert len(evidence_of(read(AttestRequest, data)).quote) <= MAX_QUOTE


def azure_request(data: bytes) -> None:
    """A request of Azure's API is read within its bounds, or refused."""
    assert len(maa.parse_attest(load_json(data, "the request"), "OpenEnclave").quote) <= maa.MAX_QUOTE


def policy_token(data: bytes) -> None:
    """Only what its certificate signed, or says that nobody did, is opened."""
    opened = open_token(data.decode("utf-8", "replace"), NOW)
    assert opened.signer is None or opened.signed == seeds.SIGNED_POLICY.rpartition(".")[0].encode()


def pcs_document(data: bytes) -> None:
    """A signed document is taken apart into what was signed, and goes together again."""
    inner, signature = pcs.split_signed(data, pcs.TCB_INFO)
    assert inner in data
    assert pcs.split_signed(pcs.join_signed(pcs.TCB_INFO, inner, signature), pcs.TCB_INFO) == (inner, signature)


def pcs_chain(data: bytes) -> None:
    """What a header says leads back to the same header."""
    pem = pcs.decode_chain(data.decode("latin-1"))
    assert pcs.decode_chain(pcs.encode_chain(pem)) == pem


def pcs_crl(data: bytes) -> None:
    """The forms of a list are all the same list, as long as it begins as DER does."""
    der = pcs.crl_der(data)
    if der.startswith(b"0\x82"):
        assert pcs.crl_der(pcs.crl_pem(der)) == pcs.crl_der(pcs.crl_hex(der)) == der


def pcs_lists(data: bytes) -> None:
    """Each list is read by one of the readers; certificates survive the wire."""

    def certificates(given: bytes) -> None:
        entries = pcs.parse_pck_certs(given)
        assert pcs.parse_pck_certs(pcs.encode_pck_certs(entries)) == entries

    _one_of(data, [pcs.parse_fmspcs, pcs.parse_evaluation_numbers, certificates])


def thim_certificate(data: bytes) -> None:
    """One certificate with its TCB, SVN of the PCE last and little-endian as everywhere else."""
    answer = read_certificate(data)
    (entry,) = answer.entries
    assert len(entry.tcbm) == 18


def pcs_parameters(data: bytes) -> None:
    """Parameters come out in one spelling."""

    def generation(text: str) -> str:
        return pcs.parse_update(None, text)

    def spelling(read: Callable[[str], str]) -> Callable[[bytes], None]:
        def run(given: bytes) -> None:
            value = read(given.decode("latin-1"))
            assert value == value.lower()

        return run

    readers = (pcs.parse_fmspc, pcs.parse_ca, pcs.parse_update, generation, lambda text: pcs.parse_tcbm(text).hex())
    _one_of(data, [spelling(read) for read in readers])


def _one_of(data: bytes, runs: Sequence[Run]) -> None:
    """Run all, of which at least one has to understand."""
    refusals = []
    for run in runs:
        try:
            run(data)
        except FormatError as refusal:
            refusals.append(refusal)
    if len(refusals) == len(runs):
        raise refusals[0]


_TOKEN_RULES: Final = Rules(issuer=seeds.TOKEN_ISSUER)
TARGETS: Final[dict[str, Target]] = {
    "quote": Target(quote, [*seeds.QUOTES, *seeds.shared("quotes/*/quote.bin")]),
    "report-body": Target(structure(ReportBody), [samples.sgx_body()]),
    "report": Target(structure(Report), [samples.sgx_body() + bytes(48)]),
    "target-info": Target(structure(TargetInfo), [bytes(512)]),
    "key-request": Target(structure(KeyRequest), [bytes(512)]),
    "td-report-1.0": Target(structure(TdReport10), [bytes(584)]),
    "td-report-1.5": Target(structure(TdReport15), [bytes(648)]),
    "td-report-1.5-ex": Target(structure(TdReport15Ex), [bytes(885)]),
    "ppid": Target(ppid, [bytes(36), bytes(276), bytes(404)]),
    "sigstruct": Target(sigstruct, [seeds.SIGSTRUCT, *seeds.shared("enclaves/*/*.sig")], (FormatError, TrustError)),
    "sec-info": Target(sec_info, [SecInfo(flags).build() for flags in (0x100, 0x201, 0x203)]),
    "sgxs": Target(sgxs, [seeds.SGXS]),
    "gramine-manifest": Target(
        gramine_manifest, [seeds.GRAMINE_MANIFEST, *seeds.shared("enclaves/gramine/*/app.manifest.sgx")]
    ),
    "gramine-pal": Target(gramine_pal, [samples.PAL, *seeds.shared("enclaves/gramine/*.elf")]),
    "aesm-request": Target(aesm_request, [aesm.encode_request(aesm.InitQuote(b"k" * 256, True, 32))[4:]]),
    "aesm-reply": Target(aesm_reply, [aesm.encode_reply(aesm.QuoteInit(bytes(512), bytes(32)))[4:]]),
    "key-ids": Target(key_ids, [build_key_id_list([b"k" * 256, b"i" * 256])]),
    "worker-stream": Target(worker_stream, [*seeds.WORKER, b"".join(seeds.WORKER[:2])]),
    "cpu-stream": Target(cpu_stream, [*seeds.CPU, b"".join(seeds.CPU)]),
    "collateral": Target(collateral, [_COLLATERAL]),
    "tcb-info": Target(tcb_info, [seeds.EVIDENCE.collateral.tcb_info, *seeds.shared_documents("tcb_info")]),
    "qe-identity": Target(qe_identity, [seeds.EVIDENCE.collateral.qe_identity, *seeds.shared_documents("qe_identity")]),
    "pcs-document": Target(pcs_document, seeds.PCS_DOCUMENTS),
    "pcs-chain": Target(pcs_chain, seeds.PCS_CHAINS, (FormatError,)),
    "pcs-crl": Target(pcs_crl, seeds.PCS_CRLS),
    "pcs-lists": Target(pcs_lists, seeds.PCS_LISTS),
    "thim-certificate": Target(thim_certificate, [seeds.THIM_CERTIFICATE]),
    "pcs-parameters": Target(pcs_parameters, seeds.PCS_PARAMETERS),
    "policy-json": Target(policy_json, [json.dumps(seeds.POLICY).encode()]),
    "policy-toml": Target(policy_toml, [seeds.POLICY_TOML.encode()]),
    "azure-policy": Target(azure_policy, seeds.AZURE_POLICIES),
    "azure-query": Target(azure_query, seeds.AZURE_QUERIES, (EvaluationFailedError,)),
    "pck-extension": Target(pck_extension, seeds.PCK_EXTENSIONS),
    "verify": Target(verify, [seeds.EVIDENCE.quote], (FormatError, VerificationError)),
    "verify-collateral": Target(verify_collateral, [_COLLATERAL], (FormatError, VerificationError)),
    "verify-chain": Target(verify_chain, [seeds.EVIDENCE_WITHOUT_CHAIN.chain], (FormatError, VerificationError)),
    "root-certificate": Target(root_certificate, [seeds.EVIDENCE.root]),
    "platform-state": Target(platform_state, [PlatformState.new(random=bytes).to_json()]),
    "pod-yaml": Target(pod_yaml, seeds.POD_YAMLS, _REFUSALS),
    "pod-json": Target(
        pod_json,
        [json.dumps(seeds.POD).encode()],
        _REFUSALS,
    ),
    "admission-review": Target(admission_review, seeds.REVIEWS),
    "log-head": Target(log_head, [seeds.LOG_HEAD.encode()], (FormatError, TrustError)),
    "log-receipt": Target(log_receipt, [seeds.LOG_RECEIPT.encode()], (FormatError, TrustError)),
    "log-key": Target(log_key, [seeds.LOG_KEY.encode()]),
    "log-tile": Target(log_tile, [b"0/x001/234.p/5", b"entries/000"]),
    "recipient-key": Target(recipient_key, seeds.RUNTIME_DATA),
    "control-line": Target(control_line, seeds.CONTROL_LINES),
    "ra-tls": Target(ra_tls, seeds.RA_TLS),
    "cbor": Target(cbor_value, seeds.CBOR),
    "attest-request": Target(attest_request, seeds.ATTEST_REQUESTS),
    "azure-request": Target(azure_request, seeds.AZURE_REQUESTS),
    "policy-token": Target(
        policy_token, [seeds.SIGNED_POLICY.encode(), b"eyJhbGciOiJub25lIn0.e30."], (FormatError, TrustError)
    ),
    "token": Target(token, seeds.TOKENS, (FormatError, TrustError)),
    "jwks": Target(jwks, [seeds.JWKS], (FormatError, TrustError)),
    "bundle": Target(brought.read_bundle, [brought.BUNDLE], (FormatError, TrustError)),
    "platform-collateral": Target(brought.read_platform_collateral, [brought.PLATFORM_COLLATERAL]),
    "registration": Target(brought.read_registration, brought.REGISTRATIONS),
    "appraisal-policy": Target(brought.read_appraisal_policy, [brought.APPRAISAL]),
}
