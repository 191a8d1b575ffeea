# SPDX-License-Identifier: Apache-2.0
"""``kubenclave quote verify`` on a sample of the vectors: exit code and error code.

The verifier's own tests take all of them.
"""

import itertools
import json
from pathlib import Path

import pytest

from kubenclave.cli import main
from vectors.reader import Vector, read

EXIT_CODES = {"reject": 1, "malformed": 3}  # everything else is a TCB status


def arguments(vector: Vector, folder: Path) -> list[str]:
    """Write a vector's files and return the command line that asks its question."""
    words = ["quote", "verify", str(folder / "quote"), "--collateral", str(folder / "collateral")]
    words += ["--at", str(int(vector.at.timestamp())), "--output", "json"]
    (folder / "quote").write_bytes(vector.quote)
    (folder / "collateral").write_bytes(vector.collateral.encode("utf-8", "surrogatepass"))
    for option, content in (("--root", vector.root), ("--pck-chain", vector.pck_chain)):
        if content is not None:
            (folder / option).write_bytes(content)
            words += [option, str(folder / option)]
    for name, value in vector.options.items():
        words.append(f"--{name.replace('_', '-')}")
        if name == "dangerously_accept_expired_collateral":
            words.append(f"{value.days}d")
        elif value is not True:
            words.append(str(value))
    return words


@pytest.mark.parametrize("base", ["sgx-v3", "sgx-v4", "sgx-v5", "tdx-v4", "tdx-v5"])
def test_vectors_have_their_exit_codes(base, tmp_path, capsys):
    seen = set()
    for vector in itertools.islice((one for one in read() if one.base == base), None, None, 4):
        seen.add(EXIT_CODES.get(vector.expect, 0))
        code = main.run(arguments(vector, tmp_path))
        shown = json.loads(capsys.readouterr().out)
        assert code == EXIT_CODES.get(vector.expect, 0), vector.name
        if code == 0:
            assert (shown["accepted"], shown["tcb_status"]) == (True, vector.expect), vector.name
        else:
            assert shown["error"]["code"] == vector.code, vector.name
            assert shown.get("accepted") is (False if code == 1 else None), vector.name
    assert seen == {0, 1, 3}


@pytest.mark.parametrize("base", ["sgx-v3", "sgx-v4", "sgx-v5", "tdx-v4", "tdx-v5"])
def test_one_of_each_is_shown_as_text(base, tmp_path, capsys):
    vector = next(one for one in read() if one.base == base and one.expect not in EXIT_CODES)
    assert main.run([word for word in arguments(vector, tmp_path) if word not in ("--output", "json")]) == 0
    assert vector.expect in capsys.readouterr().out
    assert main.run(["quote", "show", str(tmp_path / "quote")]) == 0
    assert "mr_enclave" in capsys.readouterr().out
