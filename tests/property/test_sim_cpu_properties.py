# SPDX-License-Identifier: Apache-2.0
"""Properties of the SIMULATED CPU: EPC is never lost or made, keys keep enclaves apart, REPORTs cannot be forged."""

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.platform.simulated.cpu import CpuEnclave
from kubenclave.platform.simulated.faults import CpuError
from kubenclave.platform.simulated.keys import BaseKeys, Secs, cmac, get_key
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.keyrequest import KeyName, KeyRequest
from kubenclave.sgx.measure import Pages
from kubenclave.sgx.report import Report, TargetInfo
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.wire import simcpu
from tests import simulated_enclaves as made

BASE = BaseKeys.from_fuses(made.FUSES)
U64 = st.integers(0, (1 << 64) - 1)
ATTRIBUTES = st.builds(Attributes, U64, U64)
SECS = st.builds(
    Secs,
    attributes=ATTRIBUTES,
    misc_select=st.integers(0, (1 << 32) - 1),
    cet_attributes=st.integers(0, 255),
    mr_enclave=st.binary(min_size=32, max_size=32),
    mr_signer=st.binary(min_size=32, max_size=32),
    isv_prod_id=st.integers(0, 0xFFFF),
    isv_svn=st.integers(0, 0xFFFF),
    config_svn=st.integers(0, 0xFFFF),
)
REQUESTS = st.builds(
    KeyRequest,
    key_name=st.sampled_from(list(KeyName)),
    key_policy=st.integers(0, 0x3F),
    attribute_mask=ATTRIBUTES,
    misc_mask=st.integers(0, (1 << 32) - 1),
    key_id=st.binary(min_size=32, max_size=32),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from([0x2000, 0x4000, 0x100000, 5])),
        st.tuples(st.just("add"), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("measured"), st.integers(0, 40)),
        st.tuples(st.just("init"), st.booleans()),
        st.tuples(st.just("end")),
    ),
    max_size=12,
)
GOOD, BAD = made.signed().build(), bytes(1808)


def at_byte(at: int, byte: int) -> bytes:
    """Return a good state file with another byte somewhere."""
    text = bytearray(PlatformState.new(random=bytes).to_json())
    text[at] = byte
    return bytes(text)


def step(enclave: CpuEnclave, what: tuple[Any, ...]) -> None:
    match what:
        case ("create", size):
            enclave.create(simcpu.Create(size=size, attributes=made.PLAIN))
        case ("add", first, count):
            enclave.add(Pages(first * 4096, SecInfo(0x201), count))
        case ("measured", count):
            enclave.measured(made.MR_ENCLAVE, count)
        case ("init", good):
            enclave.init(GOOD if good else BAD)
        case _:
            enclave.end()


@given(st.lists(STEPS, min_size=1, max_size=4))
def test_epc_is_what_the_enclaves_hold_and_comes_back(programs):
    cpu = made.cpu(pages=64)
    enclaves = [cpu.enclave() for _ in programs]
    for enclave, program in zip(enclaves, programs, strict=True):
        for what in program:
            with suppress(CpuError):
                step(enclave, what)
            assert 0 <= cpu.epc.free == 64 - sum(each.held for each in enclaves)
    for enclave in enclaves:
        enclave.end()
        enclave.end()
    assert cpu.epc.free == 64


@given(secs=SECS, request=REQUESTS)
def test_a_debug_enclave_and_its_production_twin_have_no_key_in_common(secs, request):
    flags = secs.attributes.flags | AttributeFlags.KSS | AttributeFlags.PROVISION_KEY | AttributeFlags.EINITTOKEN_KEY
    debug, production = (
        get_key(
            BASE,
            Secs(**{name: getattr(secs, name) for name in Secs.__slots__} | {"attributes": Attributes(bits, 3)}),
            request,
            made.CPU_SVN,
        )
        for bits in (flags | AttributeFlags.DEBUG, flags & ~int(AttributeFlags.DEBUG))
    )
    assert debug != production


@given(secs=SECS, request=st.binary(min_size=512, max_size=512) | REQUESTS.map(KeyRequest.build))
def test_any_key_request_gives_a_key_or_a_refusal(secs, request):
    with suppress(CpuError, FormatError):
        assert len(get_key(BASE, secs, KeyRequest.parse(request), made.CPU_SVN)) == 16


@given(
    target=st.builds(
        TargetInfo,
        mr_enclave=st.binary(min_size=32, max_size=32),
        attributes=ATTRIBUTES,
        config_svn=st.integers(0, 0xFFFF),
        config_id=st.binary(min_size=64, max_size=64),
    ),
    data=st.binary(min_size=64, max_size=64),
    bit=st.integers(0, 384 * 8 - 1),
)
def test_a_report_is_good_for_its_target_alone_and_only_unchanged(target, data, bit):
    cpu = made.cpu()
    report = made.running(cpu).report(target.build(), data)
    parsed = Report.parse(report)
    assert parsed.body.report_data == data
    assert report == parsed.build()
    owner = Secs(
        attributes=target.attributes,
        mr_enclave=target.mr_enclave,
        mr_signer=bytes(32),
        config_id=target.config_id,
        config_svn=target.config_svn,
    )
    request = KeyRequest(key_name=KeyName.REPORT, key_id=parsed.key_id)
    key = get_key(cpu.keys, owner, request, made.CPU_SVN)
    assert cmac(key, report[:384]) == parsed.mac
    changed = bytearray(report[:384])
    changed[bit // 8] ^= 1 << bit % 8
    assert cmac(key, bytes(changed)) != parsed.mac


@given(st.binary(max_size=200) | st.builds(at_byte, st.integers(0, 300), st.integers(0, 255)))
def test_a_state_file_is_read_or_a_format_error(text):
    with suppress(FormatError):
        assert PlatformState.from_json(text).to_json()
