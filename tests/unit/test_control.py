# SPDX-License-Identifier: Apache-2.0
"""Control lines: what goes in comes out, errors included, and garbage is a format error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import (
    Finding,
    FormatError,
    KubenclaveError,
    PlatformError,
    PolicyError,
    TrustError,
    UnreachableError,
    UsageError,
)
from kubenclave.local import control
from kubenclave.local.allotment import Allotment, DeviceSpec, Mount


def test_requests_come_back_as_they_were_sent():
    request = control.LeaseRequest(pod={"spec": {"containers": [{"name": "a"}]}})
    assert control.decode_request(control.encode(request)) == request
    assert control.decode_request(control.encode(control.StatusRequest())) == control.StatusRequest()


def test_grants_come_back_with_everything_granted():
    allotment = Allotment(
        "sgx.intel.com/enclave",
        ("enclave-1",),
        {"A": "b"},
        (Mount("/var/run/aesmd", "/somewhere"),),
        (DeviceSpec("/dev/sgx_enclave", "/dev/sgx_enclave"),),
    )
    granted = control.Granted(
        pod={}, containers=(control.Container("a", "main", (allotment,)),), epc=1, state="/s", simulated=True
    )
    assert control.decode_reply(control.encode(granted)) == granted


@pytest.mark.parametrize("kind", [UsageError, FormatError, TrustError, UnreachableError, PlatformError])
def test_refusals_arrive_as_the_errors_they_were(kind: type[KubenclaveError]):
    error = kind("no", code="some.code", field="f", expected="e", found="g", hint="h")
    again = control.as_error(control.refusal(error))
    assert type(again) is kind
    assert again.as_dict() == error.as_dict()


def test_policy_refusals_arrive_with_every_finding():
    error = PolicyError([Finding("a.b", "f", "e", "g"), Finding("c.d", "h", "i", "j")])
    again = control.as_error(control.refusal(error))
    assert isinstance(again, PolicyError)
    assert again.findings == error.findings


def test_refusals_of_an_unknown_kind_are_the_platforms():
    refused = control.Refused("NewError", "new.code", "from a later version")
    assert isinstance(control.as_error(refused), PlatformError)


def test_what_nobody_would_read_is_not_sent():
    with pytest.raises(FormatError) as caught:
        control.encode(control.LeaseRequest(pod={"x": "y" * control.MAX_LINE}))
    assert caught.value.code == "control.size"


def deep(levels: int) -> list[object]:
    inner: list[object] = []
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    "odd",
    ["\ud800", {None: 1}, object(), deep(99_999)],
    ids=["half-character", "key", "object", "depth"],
)
def test_what_json_cannot_hold_is_a_format_error(odd):
    with pytest.raises(FormatError) as caught:
        control.encode(control.LeaseRequest(pod={"x": odd}))
    assert caught.value.code == "control.encode"


@given(st.binary(max_size=200) | st.just(b"[" * 200_000))
def test_garbage_is_a_format_error(line):
    for decode in (control.decode_request, control.decode_reply):
        with pytest.raises(FormatError):
            decode(line)
