# SPDX-License-Identifier: Apache-2.0
"""The protocol of the SIMULATED CPU: frames byte for byte, both ways, in pieces, and as garbage."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.measure import Pages
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.wire import simcpu
from kubenclave.wire.frames import FrameDecoder
from kubenclave.wire.simcpu import Code, CpuStatus, Op, Reply

REQUESTS: dict[str, tuple[simcpu.Request, str]] = {
    "ecreate": (
        simcpu.Create(
            size=0x10000,
            ssa_frame_size=4,
            misc_select=1,
            cet_attributes=2,
            attributes=Attributes(0x84, 3),
            config_svn=5,
            config_id=b"c" * 64,
        ),
        "64000000 01 0000010000000000 04000000 01000000 02 84000000000000000300000000000000 0500" + "63" * 64,
    ),
    "eadd-unmeasured": (
        simcpu.Add(Pages(0x1000, SecInfo(0x207), 3)),
        "16000000 02 0010000000000000 0702000000000000 03000000 00",
    ),
    "eadd-measured": (
        simcpu.Add(Pages(0, SecInfo(0x201), 1, b"p" * 4096)),
        "16100000 02 0000000000000000 0102000000000000 01000000 01" + "70" * 4096,
    ),
    "eextend": (simcpu.Extend(0x1100, b"x" * 256), "09010000 03 0011000000000000" + "78" * 256),
    "measured": (simcpu.Measured(b"m" * 32, 7), "25000000 04" + "6d" * 32 + "07000000"),
    "einit": (simcpu.Init(b"s" * 1808), "11070000 05" + "73" * 1808),
    "ereport": (simcpu.MakeReport(b"t" * 512, b"d" * 64), "41020000 06" + "74" * 512 + "64" * 64),
    "egetkey": (simcpu.GetKey(b"k" * 512), "01020000 07" + "6b" * 512),
    "status": (simcpu.GetStatus(), "01000000 08"),
    "pck-chain": (simcpu.GetPckChain(), "01000000 09"),
    "sections": (simcpu.GetSections(), "01000000 0a"),
}


@pytest.mark.parametrize(("request_", "frame"), REQUESTS.values(), ids=REQUESTS.keys())
def test_requests_byte_for_byte(request_, frame):
    assert simcpu.encode_request(request_) == bytes.fromhex(frame)
    assert simcpu.decode_request(bytes.fromhex(frame)) == request_


@pytest.mark.parametrize("frame", [frame for _, frame in REQUESTS.values()], ids=REQUESTS.keys())
def test_operands_of_another_size_are_refused(frame):
    body = bytes.fromhex(frame)
    for broken in (body[:-1], body + b"\0"):
        with pytest.raises(FormatError):
            simcpu.decode_request(broken)


def test_every_operation_has_its_request():
    assert {simcpu.op_of(request) for request, _ in REQUESTS.values()} == set(Op)


@pytest.mark.parametrize("size", [1, 2, 5, 1000, 1 << 20])
def test_requests_come_out_as_they_went_in_however_the_stream_is_cut(size):
    wanted = [request for request, _ in REQUESTS.values()]
    stream = b"".join([simcpu.encode_request(request) for request in wanted])
    decoder = FrameDecoder(simcpu.decode_request, simcpu.MAX_FRAME)
    found = []
    for start in range(0, len(stream), size):
        found += decoder.feed(stream[start : start + size])
    assert found == wanted
    assert decoder.pending == 0


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param("00000000", "format.truncated", id="nothing"),
        pytest.param("01000000 00", "format.value", id="op-0"),
        pytest.param("01000000 0b", "format.value", id="op-11"),
        pytest.param("01001000 08", "format.size", id="over-the-limit"),
        pytest.param("02000000 08 00", "format.trailing", id="status-with-operands"),
        pytest.param("02000000 09 00", "format.trailing", id="pck-chain-with-operands"),
        pytest.param(
            "16000000 02 0000000000000000 0102000000000000 01000000 02", "format.value", id="measured-is-no-flag"
        ),
        pytest.param(
            "16000000 02 0000000000000000 0102000000000000 ffffffff 01", "format.truncated", id="promised-content"
        ),
    ],
)
def test_streams_without_meaning_are_refused(frame, code):
    with pytest.raises(FormatError) as caught:
        FrameDecoder(simcpu.decode_request, simcpu.MAX_FRAME).feed(bytes.fromhex(frame))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(simcpu.Create(size=1 << 64, attributes=Attributes(4, 3)), id="size"),
        pytest.param(simcpu.Create(size=8192, attributes=Attributes(4, 3), config_id=b""), id="config-id"),
        pytest.param(simcpu.Add(Pages(0, SecInfo(0x201), 2, bytes(4096))), id="content"),
        pytest.param(simcpu.Add(Pages(0, SecInfo(0x201), 1 << 32)), id="count"),
        pytest.param(simcpu.Add(Pages(0, SecInfo(0x201), 256, bytes(1 << 20))), id="frame-over-the-limit"),
        pytest.param(simcpu.Extend(0, bytes(255)), id="chunk"),
        pytest.param(simcpu.Measured(bytes(31), 1), id="mr-enclave"),
        pytest.param(simcpu.Init(bytes(1807)), id="sigstruct"),
        pytest.param(simcpu.MakeReport(bytes(512), bytes(63)), id="report-data"),
        pytest.param(simcpu.GetKey(bytes(513)), id="key-request"),
    ],
)
def test_values_that_do_not_fit_are_not_sent(request_):
    with pytest.raises(FormatError):
        simcpu.encode_request(request_)


def test_a_full_frame_of_pages_fits():
    pages = Pages(0, SecInfo(0x201), simcpu.PAGES_PER_FRAME, bytes(simcpu.PAGES_PER_FRAME * 4096))
    assert simcpu.decode_request(simcpu.encode_request(simcpu.Add(pages))) == simcpu.Add(pages)


@pytest.mark.parametrize("code", list(Code), ids=[code.slug for code in Code])
def test_replies_survive_encoding(code):
    reply = Reply(code, b"text")
    frame = simcpu.encode_reply(reply)
    assert frame == (6).to_bytes(4, "little") + code.to_bytes(2, "little") + b"text"
    assert simcpu.decode_reply(frame) == reply


@pytest.mark.parametrize(
    ("frame", "code"),
    [("01000000 00", "format.truncated"), ("02000000 0300", "format.value"), ("02000000 ffff", "format.value")],
    ids=["short", "code-3", "code-ffff"],
)
def test_replies_without_meaning_are_refused(frame, code):
    with pytest.raises(FormatError) as caught:
        simcpu.decode_reply(bytes.fromhex(frame))
    assert caught.value.code == code


def test_reasons_are_text_for_people():
    assert simcpu.refusal(Code.OUT_OF_EPC, "asked 2 pages").reason == "asked 2 pages"
    assert Reply(Code.OUT_OF_EPC, b"\x1b[2J\xff\n").reason == "?[2J\N{REPLACEMENT CHARACTER}?"
    assert Reply(Code.SUCCESS, b"key").reason == ""
    assert len(simcpu.decode_reply(simcpu.encode_reply(Reply(Code.OUT_OF_EPC, b"a" * 5000))).reason) == 1024


@pytest.mark.parametrize(
    ("request_", "size"),
    [
        (REQUESTS["ereport"][0], 432),
        (REQUESTS["egetkey"][0], 16),
        (REQUESTS["status"][0], 32),
        (REQUESTS["einit"][0], 0),
    ],
    ids=["ereport", "egetkey", "status", "einit"],
)
def test_results_have_the_size_of_their_request(request_, size):
    assert Reply(Code.SUCCESS, bytes(size)).check(request_) == bytes(size)
    with pytest.raises(FormatError):
        Reply(Code.SUCCESS, bytes(size + 1)).check(request_)


def test_a_certificate_chain_has_any_size():
    assert Reply(Code.SUCCESS, b"PEM").check(simcpu.GetPckChain()) == b"PEM"


def test_cpu_status_byte_for_byte():
    status = CpuStatus(0x8000000, 0x1000, b"v" * 16)
    assert status.build() == bytes.fromhex("0000000800000000 0010000000000000" + "76" * 16)
    assert CpuStatus.parse(status.build()) == status
    with pytest.raises(FormatError):
        CpuStatus.parse(bytes(31))


def test_sections_byte_for_byte():
    sections = simcpu.Sections((0x8000000, 0x1000))
    assert sections.build() == bytes.fromhex("0000000800000000 0010000000000000")
    assert simcpu.Sections.parse(sections.build()) == sections
    assert Reply(Code.SUCCESS, sections.build()).check(simcpu.GetSections()) == sections.build()
    for wrong in (b"", bytes(7), bytes(8 * (simcpu.MAX_SECTIONS + 1))):
        with pytest.raises(FormatError):
            simcpu.Sections.parse(wrong)
