# SPDX-License-Identifier: Apache-2.0
"""What the loader of SIMULATED enclaves sends to the CPU."""

from typing import Any

import pytest

from kubenclave.errors import FormatError
from kubenclave.platform.simulated import loader
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import Sigstruct
from tests import simulated_enclaves as made


class Recorder:
    """Takes the place of a connection."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def create(self, size, ssa_frame_size, *, attributes, misc_select):
        self.calls.append(("create", size, ssa_frame_size, attributes, misc_select))

    def add(self, pages):
        self.calls.append(("add", pages))

    def measured(self, mr_enclave, pages):
        self.calls.append(("measured", mr_enclave, pages))

    def init(self, sigstruct):
        self.calls.append(("init", sigstruct))


def loaded(identity: loader.Identity) -> list[tuple[Any, ...]]:
    recorder = Recorder()
    identity.load(recorder)  # type: ignore[arg-type]
    return recorder.calls


def sign(template: Sigstruct) -> Sigstruct:
    return made.signed(
        **{name: getattr(template, name) for name in ("enclave_hash", "attributes", "isv_prod_id", "isv_svn")}
    )


@pytest.mark.parametrize(
    ("length", "count", "size"),
    [(0, 1, 0x2000), (1, 1, 0x2000), (4096, 1, 0x2000), (8192, 2, 0x2000), (8193, 3, 0x4000), (5 * 4096, 5, 0x8000)],
)
def test_content_becomes_pages(length, count, size):
    content = b"x" * length
    terms = loader.Terms(isv_prod_id=3, isv_svn=4, debug=True)
    identity = loader.of_content(content, terms, sign)
    pages = Pages(0, SecInfo(0x205), count, content.ljust(count * 4096, b"\0"))
    assert loaded(identity) == [
        ("create", size, 1, Attributes(6, 3), 0),
        ("add", pages),
        ("init", identity.sigstruct),
    ]
    signed = Sigstruct.parse(identity.sigstruct)
    assert signed.enclave_hash == measure(size, 1, [pages])
    assert (signed.isv_prod_id, signed.isv_svn, signed.attributes.debug) == (3, 4, True)


def test_a_measurement_goes_in_place_of_pages():
    sigstruct = made.signed(misc_select=1, attributes=Attributes(5, 7)).build()
    calls = loaded(loader.of_measurement(b"m" * 32, 7, sigstruct))
    assert calls[0][3:] == (Attributes(4, 7), 1)  # INIT is EINIT's to set
    assert calls[1:] == [("measured", b"m" * 32, 7), ("init", sigstruct)]


def test_bits_without_a_name_go_to_the_cpu_as_they_are():
    sigstruct = made.signed(attributes=Attributes(1 << 50 | 4, 3)).build()
    assert loaded(loader.of_measurement(b"m" * 32, 1, sigstruct))[0][3] == Attributes(1 << 50 | 4, 3)


def test_what_is_no_sigstruct_goes_to_the_cpu_all_the_same():
    calls = loaded(loader.of_measurement(b"m" * 32, 1, bytes(1808)))
    assert calls[-1] == ("init", bytes(1808))


def test_an_sgxs_stream_is_measured_here(shared_data):
    folder = shared_data / "enclaves/fortanix"
    sigstruct = (folder / "test_enclave.sig").read_bytes()
    identity = loader.of_sgxs((folder / "test_enclave.sgxs").read_bytes(), sigstruct)
    assert identity.measured is not None
    assert identity.measured[0] == Sigstruct.parse(sigstruct).enclave_hash


def test_a_gramine_enclave_is_loaded_page_by_page(shared_data):
    folder = shared_data / "enclaves/gramine"
    sigstruct = (folder / "minimal/app.sig").read_bytes()
    identity = loader.of_gramine(
        (folder / "minimal/app.manifest.sgx").read_bytes(), (folder / "pal-one-segment.elf").read_bytes(), sigstruct
    )
    assert measure(identity.size, identity.ssa_frame_size, identity.pages) == Sigstruct.parse(sigstruct).enclave_hash


@pytest.mark.parametrize(
    "build", [loader.of_sgxs, lambda stream, sig: loader.of_gramine(stream, stream, sig)], ids=["sgxs", "gramine"]
)
def test_garbage_is_no_enclave(build):
    with pytest.raises(FormatError):
        build(b"\xff" * 100, bytes(1808))
