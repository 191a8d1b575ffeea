# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md lists every error code of the source, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from kubenclave.dcap.pins import PINS
from kubenclave.wire.simcpu import Code

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "kubenclave"
CODE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9][a-z0-9_-]*")
FILE_SUFFIXES = (".sock", ".socket", ".json", ".toml", ".bin", ".pem", ".der", ".log", ".py", ".md", ".crt", ".key")
LOG_CALLS = {"debug", "info", "warning", "error", "exception", "_tell"}

# Text of the form of a code that is none: keys of manifests, names of modules and attributes, expressions of CEL.
NO_CODES = {
    "attestation.db",
    "c.own",
    "collateral.db",
    "ear.appraisal-policy-id",
    "ear.status",
    "ear.trustworthiness-vector",
    "ear.verifier-id",
    "http.disconnect",
    "kubenclave.cli",
    "kubernetes.io",
    "metadata.name",
    "metadata.namespace",
    "os.path",
    "sgx.cpu_features",
    "sgx.enclave_size",
    "sgx.max_threads",
    "token.jwt",
    "uvicorn.error",
    "variables.canonical",
}

ISSUED = ("pck", "pck-ca", "tcb-signer")
COMPUTED = {
    "f'{code}.chain'": [f"{name}.chain" for name in ISSUED],
    "f'{code}.extensions'": [f"{name}.extensions" for name in ISSUED],
    "f'{code}.key'": [f"{name}.key" for name in ISSUED],
    "f'{code}.role'": [f"{name}.role" for name in ISSUED],
    "f'{code}.signature'": [f"{name}.signature" for name in ISSUED],
    "f'{code}.untrusted-root'": [f"{name}.untrusted-root" for name in ISSUED],
    "f\"{('collateral' if each.is_collateral else 'certificate')}.{code}\"": [
        f"{what}.{how}" for what in ("collateral", "certificate") for how in ("expired", "not-yet-valid")
    ],
    "f\"policy.{self.field.replace('_', '-')}\"": [pin.code for pin in PINS],
    "f\"{what.lower().replace(' ', '-')}.malformed\"": ["tcb-info.malformed", "qe-identity.malformed"],
    "f\"aesm.{error.name.lower().replace('_', '-')}\"": ["aesm.*"],
    "f'simcpu.{reply.code.slug}'": [f"simcpu.{status.slug}" for status in Code if status],
    "f'simcpu.{answer.slug}'": [],  # the simulator's own use of the same codes
    "f'{name}.data'": [],  # a member of a request
    "f'sgx.{name}'": [],  # a key of Gramine's manifest
}


def modules() -> Iterator[ast.Module]:
    for path in sorted(SOURCE.rglob("*.py")):
        if "_proto" not in path.parts:
            yield ast.parse(path.read_text(encoding="utf-8"))


def constants() -> set[str]:
    """Codes that stand in the source as they are; events of the log are none."""
    found = set()
    for module in modules():
        events = {
            id(call.args[0])
            for call in ast.walk(module)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in LOG_CALLS
            and call.args
        }
        found |= {
            node.value
            for node in ast.walk(module)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in events
            and CODE.fullmatch(node.value)
            and not node.value.endswith(FILE_SUFFIXES)
        }
    return found - NO_CODES


def computed() -> set[str]:
    """Codes that are put together, as they stand in the source."""
    texts = set()
    for module in modules():
        for node in ast.walk(module):
            places: list[ast.expr | None] = []
            if isinstance(node, ast.Call):
                places += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                places += node.args
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code":
                places.append(node.value)
            elif isinstance(node, ast.FunctionDef) and node.name in {"_code", "code"}:
                places += [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
            texts |= {ast.unparse(place) for place in places if isinstance(place, ast.JoinedStr) and is_code(place)}
    return texts


def is_code(text: ast.JoinedStr) -> bool:
    filled = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in text.values)
    return CODE.fullmatch(filled) is not None and not filled.endswith(FILE_SUFFIXES) and filled != "x.x"


def documented() -> list[str]:
    rows = [
        line.split("|")[1]
        for line in (ROOT / "docs/errors.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    return [code for row in rows for code in re.findall(r"`([a-z][^`]*)`", row)]


def test_every_way_to_put_a_code_together_is_known_here():
    assert computed() <= COMPUTED.keys()


def test_the_document_lists_the_codes_of_the_source_and_no_other():
    in_source = constants() | {code for codes in COMPUTED.values() for code in codes}
    in_document = set(documented())
    assert in_document - in_source == set(), "listed, but not in the source"
    assert in_source - in_document == set(), "in the source, but not listed"


def test_no_code_is_listed_twice():
    assert len(documented()) == len(set(documented()))


def test_codes_are_spelled_with_hyphens():
    assert [code for code in documented() if "_" in code] == []
