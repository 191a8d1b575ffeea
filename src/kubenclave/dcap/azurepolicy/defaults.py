# SPDX-License-Identifier: Apache-2.0
"""The policies in force where nobody set one: every genuine quote is accepted, and old clients find their old names.

They say what the defaults of Azure Attestation say. The TCB status is the verifier's business, not theirs.
"""

from typing import Final

_ALIASES: Final = {
    "x-ms-sgx-is-debuggable": "is-debuggable",
    "x-ms-sgx-mrsigner": "sgx-mrsigner",
    "x-ms-sgx-mrenclave": "sgx-mrenclave",
    "x-ms-sgx-product-id": "product-id",
    "x-ms-sgx-svn": "svn",
    "x-ms-attestation-type": "tee",
}
_ISSUANCE: Final = "".join(
    f'  c:[type=="{name}"] => issue(type="{alias}", value=c.value);\n' for name, alias in _ALIASES.items()
)
DEFAULT_SGX_POLICY: Final = (
    "version= 1.1;\n"
    'configurationrules{\n  => issueproperty(type="x-ms-sgx-tcbidentifier", value="azuredefault");\n};\n'
    "authorizationrules{\n  => permit();\n};\n"
    f"issuancerules{{\n{_ISSUANCE}}};\n"
)
DEFAULT_TDX_POLICY: Final = "version= 1.0;\nauthorizationrules{\n  => permit();\n};\nissuancerules{\n};\n"
DEFAULT_POLICIES: Final = {
    "SgxEnclave": DEFAULT_SGX_POLICY,
    "OpenEnclave": DEFAULT_SGX_POLICY,
    "TdxVm": DEFAULT_TDX_POLICY,
}
