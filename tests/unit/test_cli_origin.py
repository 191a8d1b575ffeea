# SPDX-License-Identifier: Apache-2.0
"""Where ``quote verify`` and ``policy test`` take collateral from: PCCS, bundle, the state of a service, offline."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubenclave.cli import main
from kubenclave.cli.origin import Origin
from kubenclave.errors import UsageError
from kubenclave.services.collateral import bundle
from kubenclave.services.collateral.items import ROOT_CRL, ItemKey, Tee
from kubenclave.services.collateral.sources.intel import IntelSource
from kubenclave.services.collateral.sources.pccs import PccsSource
from tests import evidence
from tests.bundle_keys import KEYS, private_pem, public_pem
from tests.collateral_items import ANCHOR, FMSPC_TEXT, items
from tests.collateral_service import bench, serving
from tests.evidence import AT, NOW, Files

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return evidence.make().write(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def verify(files: Files, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(
        *more: str, quote: object = files.quote, command: tuple[str, ...] = ("quote", "verify")
    ) -> tuple[int, str, str]:
        code = main.run([*command, str(quote), "--at", AT, "--root", str(files.root), *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def signed(files: Files) -> Iterator[list[str]]:
    key = bundle.signing_key(private_pem(KEYS["Ed25519"]))
    content = bundle.write(items().values(), key, anchor=ANCHOR, created=NOW)
    path = files.write("site.bundle", content)
    return iter([["--bundle", path, "--trusted-key", files.write("public.pem", public_pem(KEYS["Ed25519"]))]])


def test_from_a_pccs(verify: Run, tmp_path: Path):
    with bench(tmp_path) as made, serving(made.app) as port:
        code, out, err = verify("--pccs", f"http://127.0.0.1:{port}", "--output", "json")
        asked = set(made.source.asked)
    assert code == 0, err
    assert '"accepted": true' in out
    assert f"collateral from PCCS http://127.0.0.1:{port}" in err
    assert {ROOT_CRL, ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT)} <= asked


def test_a_generation_from_a_pccs(verify: Run, tmp_path: Path):
    with bench(tmp_path) as made, serving(made.app) as port:
        assert verify("--pccs", f"http://127.0.0.1:{port}", "--update", "early")[0] == 0
        code, _, err = verify("--pccs", f"http://127.0.0.1:{port}", "--update", "18")
    assert (code, "collateral.unknown" in err) == (4, True)


def test_a_pccs_that_is_not_there(verify: Run):
    code, out, err = verify("--pccs", "http://127.0.0.1:9")
    assert (code, out, "source.unreachable" in err) == (4, "", True)


def test_collateral_that_does_not_verify_is_refused_whoever_serves_it(verify: Run, tmp_path: Path, files: Files):
    other = bytes(reversed(range(32)))
    from kubenclave.platform.simulated.pki import Pki

    root = files.write("other.der", Pki.from_seed(other).root_der)
    with bench(tmp_path) as made, serving(made.app) as port:
        code, out, err = verify("--pccs", f"http://127.0.0.1:{port}", "--root", root)
    assert (code, "ACCEPTED" in out, "refused[" in err) == (1, False, True)


def test_from_a_bundle_with_nobody_asked(verify: Run, signed: Iterator[list[str]]):
    code, out, err = verify("--offline", *next(signed))
    assert code == 0, err
    assert out.startswith("ACCEPTED")
    assert "offline: nobody was asked over the network" in err
    assert "collateral from the bundle of 2026-03-05T12:00:00Z, signed by " in err


def test_a_bundle_of_somebody_else_is_refused(verify: Run, signed: Iterator[list[str]], files: Files):
    given = next(signed)
    given[-1] = files.write("other.pem", public_pem(KEYS["ES256"]))
    code, out, err = verify(*given)
    assert (code, out, "bundle.signer" in err) == (1, "", True)


def test_a_bundle_that_lacks_an_item_says_which(verify: Run, files: Files):
    key = bundle.signing_key(private_pem(KEYS["Ed25519"]))
    some = [item for item in items().values() if item.key != ItemKey.identity(Tee.SGX)]
    path = files.write("some.bundle", bundle.write(some, key, anchor=ANCHOR, created=NOW))
    code, _, err = verify("--bundle", path, "--trusted-key", files.write("k.pem", public_pem(KEYS["Ed25519"])))
    assert (code, "sgx:identity:qe:standard" in err) == (4, True)


def test_from_the_state_of_a_service_here(verify: Run, tmp_path: Path):
    with bench(tmp_path) as made:
        for key in (ItemKey.pck_crl("platform"), ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT), ItemKey.identity(Tee.SGX)):
            asyncio.run(made.service.cache.get(key))
    code, _, err = verify("--offline", "--collateral-state", str(tmp_path))
    assert code == 0, err
    assert f"collateral from the collateral service in {tmp_path}" in err
    code, _, err = verify("--collateral-state", str(tmp_path / "none"))
    assert (code, "collateral.no-state" in err) == (2, True)
    assert not (tmp_path / "none").exists()


def test_a_file_offline_is_said_to_be_so(verify: Run, files: Files):
    code, _, err = verify("--offline", "--collateral", str(files.collateral))
    assert code == 0
    assert err == "offline: nobody was asked over the network\n"


def test_a_policy_is_tested_with_the_same_options(verify: Run, files: Files, tmp_path: Path):
    policy = files.write("p.toml", f'version = 1\n[[enclaves]]\nmr_enclave = "{evidence.MR_ENCLAVE.hex()}"\n')
    with bench(tmp_path) as made, serving(made.app) as port:
        code, _, err = verify(
            "--quote",
            str(files.quote),
            "--pccs",
            f"http://127.0.0.1:{port}",
            quote=policy,
            command=("policy", "test"),
        )
    assert code == 0, err


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--offline"],
        ["--collateral", "f", "--pccs", "http://localhost"],
        ["--pccs", "http://localhost", "--offline"],
        ["--bundle", "b"],
        ["--trusted-key", "k", "--collateral", "f"],
        ["--pccs-ca", "c", "--collateral", "f"],
        ["--update", "early", "--collateral", "f"],
        ["--bundle", "-", "--trusted-key", "k"],
    ],
)
def test_what_does_not_go_together_is_misuse(verify: Run, given: list[str]):
    code, out, err = verify(*given, quote="-" if "-" in given else "q")
    assert (code, out, "error[cli.misuse]" in err) == (2, "", True)


def test_intels_service_is_told_from_caches():
    origin = Origin(pccs="https://api.trustedservices.intel.com/sgx/certification/v4/")
    assert isinstance(origin._source(origin.pccs or ""), IntelSource)
    assert isinstance(origin._source("https://api.trustedservices.intel.com.example"), PccsSource)


def test_offline_says_what_would_do():
    with pytest.raises(UsageError) as caught:
        Origin(offline=True).check()
    assert caught.value.hint is not None
    assert "--pccs" not in caught.value.hint
