# SPDX-License-Identifier: Apache-2.0
"""Gramine's memory layout: known answers of its signing tool, and what cannot be laid out."""

import json
from pathlib import Path

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.gramine import GramineEnclave, Pal
from kubenclave.sgx.sigstruct import Sigstruct
from tests.samples import PAL, elf

VECTORS = ["minimal", "page-boundary-4096", "segments-debug", "trusted-tree"]


MANIFEST = b'[sgx]\nenclave_size = "16M"\nmax_threads = 2\n'


@pytest.mark.parametrize("vector", VECTORS)
def test_layout_measurement_and_template_are_those_of_gramine(shared_data: Path, vector: str) -> None:
    folder = shared_data / "enclaves" / "gramine" / vector
    expected = json.loads((folder / "expected.json").read_text())
    pal = (folder.parent / expected["pal"]).read_bytes()
    enclave = GramineEnclave.parse((folder / "app.manifest.sgx").read_bytes(), pal)
    laid_out = [
        (a.name, hex(a.pages.offset), hex(a.pages.count * 4096), hex(a.pages.sec_info.flags), bool(a.pages.content))
        for a in enclave.areas
    ]
    assert laid_out == [(a["area"], a["addr"], a["size"], a["secinfo"], a["measured"]) for a in expected["areas"]]
    assert enclave.mr_enclave().hex() == expected["sigstruct"]["mrenclave"]
    theirs = Sigstruct.parse((folder / "app.sig").read_bytes())
    assert enclave.sigstruct(theirs.date).signed_bytes() == theirs.signed_bytes()


def test_a_pal_is_read() -> None:
    pal = Pal.parse(PAL)
    assert (pal.entry, pal.size, len(pal.segments)) == (0x10, 0x4000, 2)
    assert [(s.offset, s.pages, s.flags, s.lead) for s in pal.segments] == [(0, 2, 5, 0), (0x3000, 1, 3, 0x10)]


def test_edmm_leaves_free_memory_out() -> None:
    plain = GramineEnclave.parse(MANIFEST, PAL)
    edmm = GramineEnclave.parse(MANIFEST + b"edmm_enable = true\n", PAL)
    assert plain.areas[-1].name == "free"
    assert edmm.areas[-1].name == "pal-segment"
    assert plain.pages > edmm.pages
    assert GramineEnclave.parse(b"[sgx]\nedmm_enable = true\n", PAL).size == 1 << 40
    assert GramineEnclave.parse(b"", PAL).size == 256 << 20


def test_an_enclave_may_be_full() -> None:
    """With one page to spare above 64 KiB there is a free area, with none there is not."""
    manifest = b'[sgx]\nenclave_size = "512K"\nmax_threads = 1\n'
    room = 0x80000 - 0x10000 - 0x1000 - 0x8000 - 0x2000 - 0x50000
    full = GramineEnclave.parse(manifest, elf((5, 0, 0, 1, room)))
    assert full.areas[-1].name == "pal-segment"
    assert GramineEnclave.parse(manifest, elf((5, 0, 0, 1, room - 0x1000))).areas[-1].pages.count == 1
    with pytest.raises(FormatError) as caught:
        GramineEnclave.parse(manifest, elf((5, 0, 0, 1, room + 1)))
    assert caught.value.code == "gramine.size"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (b"max_threads = 0", "sgx.max_threads"),
        (b"max_threads = true", "sgx.max_threads"),
        (b'max_threads = "4"', "sgx.max_threads"),
        (b"enclave_size = 16777216", "sgx.enclave_size"),
        (b'enclave_size = "16Mi"', "sgx.enclave_size"),
        (b'enclave_size = "24M"', "sgx.enclave_size"),
        (b'enclave_size = "4096"', "sgx.enclave_size"),
        (b'enclave_size = "2048G"', "sgx.enclave_size"),
        (b'enclave_size = "0100"', "sgx.enclave_size"),
        (b'edmm_enable = "no"', "sgx.edmm_enable"),
    ],
)
def test_options_that_mean_nothing(options: bytes, field: str) -> None:
    with pytest.raises(FormatError) as caught:
        GramineEnclave.parse(b"[sgx]\n" + options + b"\n", PAL)
    assert (caught.value.code, caught.value.field) == ("gramine.manifest", field)


@pytest.mark.parametrize(
    "manifest",
    [b"sgx = 1", b"\xff", b"[sgx", b"x = 1\nx = 2", b"x = " + b"9" * 5000, b"x = " + b"[" * 9999],
    ids=["no table", "no UTF-8", "no TOML", "twice", "digits", "depth"],
)
def test_manifests_that_are_none(manifest: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        GramineEnclave.parse(manifest, PAL)
    assert caught.value.code == "gramine.manifest"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (b"debug = 1", "sgx.debug"),
        (b"isvsvn = 65536", "sgx.isvsvn"),
        (b"isvprodid = true", "sgx.isvprodid"),
        (b"cpu_features = []", "sgx.cpu_features"),
        (b'cpu_features.avx = "yes"', "sgx.cpu_features.avx"),
        (b"cpu_features.avx512 = true", "sgx.cpu_features.avx512"),
        (b'cpu_features.mpx = "unspecified"', "sgx.cpu_features.mpx"),
    ],
)
def test_options_no_sigstruct_can_hold(options: bytes, field: str) -> None:
    enclave = GramineEnclave.parse(MANIFEST + options + b"\n", PAL)
    with pytest.raises(FormatError) as caught:
        enclave.sigstruct()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("features", "xfrm", "mask"),
    [
        ("", 0x3, 0xFFFFFFFFFFF9FF1B),
        ('avx = "required"', 0x7, 0xFFFFFFFFFFF9FF1F),
        ('avx = "required"\navx512 = "disabled"', 0x3, 0xFFFFFFFFFFF9FFFF),  # Gramine's quirk
        ('avx512 = "required"\namx = "required"', 0x600E7, 0xFFFFFFFFFFFFFFFF),
        ('mpx = "required"\npkru = "required"\namx = "disabled"', 0x21B, 0xFFFFFFFFFFFFFF1B),
    ],
    ids=["none", "avx", "avx without avx512", "avx512 amx", "mpx pkru"],
)
def test_cpu_features_decide_over_xfrm(features: str, xfrm: int, mask: int) -> None:
    manifest = MANIFEST + b"[sgx.cpu_features]\n" + features.encode()
    sigstruct = GramineEnclave.parse(manifest, PAL).sigstruct()
    assert (sigstruct.attributes.xfrm, sigstruct.attribute_mask.xfrm) == (xfrm, mask)


def test_hexadecimal_sizes_are_read() -> None:
    assert GramineEnclave.parse(b'[sgx]\nenclave_size = "0x4000K"\n', PAL).size == 16 << 20


@pytest.mark.parametrize(
    "pal",
    [
        b"",
        b"MZ".ljust(100, b"\0"),
        elf((5, 0, 0, 1, 1), machine=40),
        elf(),
        elf((5, 0, 0, 1, 1))[:80].ljust(100, b"\0"),
        elf((5, 0, 0, 1, 65 << 20)),
        elf((5, 0x300, 0, 0x200, 0x200)),
        elf((5, 0, 0x1000, 2, 1)),
        elf((5, 0, 0, 1, 0x1000), (6, 0, 0x800, 1, 1)),
        elf((5, 0, 0x2000, 1, 0x1000)),
        elf((5, 0, 0, 1, 0x1000)),
    ],
    ids=[
        "empty",
        "another magic",
        "another machine",
        "no segment",
        "headers beyond the end",
        "too large",
        "segment beyond the end",
        "more in the file than in memory",
        "overlap",
        "entry before it",
        "entry behind it",
    ],
)
def test_pals_that_are_none(pal: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        Pal.parse(pal)
    assert caught.value.code == "gramine.pal"
