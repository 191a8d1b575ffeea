# SPDX-License-Identifier: Apache-2.0
"""Where dcap-qvl 0.7 answers otherwise than we do on a vector, and why.

Patterns are those of ``fnmatch``. Each has to match a vector on which the answers do differ, so that the list cannot
go stale.
"""

from fnmatch import fnmatchcase
from typing import Final

REASONS: Final = {
    # It refuses, we do not.
    "sgx-v[45]/*": "reads SGX quotes of version 3 only; Intel's library takes them in 4 and 5",
    "*/auth-data-none": "wants 32 bytes of QE authentication data; Intel's library takes any number",
    "*/auth-data-1000": "wants 32 bytes of QE authentication data; Intel's library takes any number",
    "*/certification-type-*-chain-beside": "takes the PCK chain from the quote only",
    "*/debug-allowed": "has no switch for debug in this call",
    "tdx-v4/sept-ve-disable-clear": "a rule of its own: SEPT_VE_DISABLE; Intel reports the status",
    "tdx-v5/service-td": "a rule of its own: MRSERVICETD; Intel reports the status",
    "*/chain-root-first": "wants the leaf first",
    "*-signer-chain-root-first": "wants the signer first",
    "*/cpusvn-unlike-its-components": "matches levels by the CPUSVN octets; Intel by the components",
    "*-crl-ends-now": "at exactly nextUpdate its X.509 library takes a CRL for expired",
    "*-expired-7-days-ago-grace-7": "has no grace period in this call",
    "*/qe-identity-unsorted-levels": "trusts the order of the QE levels; Intel sorts them",
    "*/tcb-info-version-2*": "reads no TCB info of version 2",
    "*/platform-ahead-of-every-level": "cannot read a PCESVN above 32767",
    "*/relaunch-current-revoked": "refuses a revoked current TCB; Intel's rule is the launch status otherwise",
    # It accepts, or says something milder.
    "tdx-v?/certification-size-less": "does not look at what is left in the outer certification data; Intel does",
    "tdx-v?/outer-type-*": "does not look at the outer certification type (dcap.md, section 9)",
    "*-without-2.5.29.*": "asks for no extension that RFC 5280 leaves optional; Intel's library does",
    "*/crl-ca-*": "does not use the CRL issuer chain: it takes the CA in the quote",
    "*/root-expired": "does not look at the anchor's lifetime",
    "*/root-not-yet-valid": "does not look at the anchor's lifetime",
    "*/root-is-no-ca": "takes any certificate as anchor",
    "*/root-not-signed-by-itself": "takes any certificate as anchor",
    "*/leaf-issued-by-the-root": "does not ask for a PCK CA between (section 10)",
    "*/leaf-called-otherwise": "does not look at names (section 10)",
    "*-signer-called-otherwise": "does not look at names (section 9: role of the signer)",
    "*-signer-without-the-right-to-sign": "does not look at the key usage",
    "*/chain-two-leaves": "ignores what it does not need in a chain (section 10)",
    "*/chain-two-cas": "ignores what it does not need in a chain (section 10)",
    "*/chain-four-certificates": "ignores what it does not need in a chain (section 10)",
    "*/chain-another-root": "ignores what it does not need in a chain (section 10)",
    "*/chain-tcb-signer-in-place-of-root": "ignores what it does not need in a chain (section 10)",
    "*-signer-chain-three-certificates": "ignores what it does not need in a chain (section 10)",
    "*-signer-chain-another-root": "ignores what it does not need in a chain (section 10)",
    "*/sgx-extension-*": "reads only some entries of the SGX extension, and those loosely (section 10)",
    "*-crl-without-number": "asks for no CRL number (section 10)",
    "*-crl-without-authority-key": "asks for no authority key identifier (section 10)",
    "*-crl-not-yet-valid": "does not look at thisUpdate (section 10)",
    "*-nested-deeply": "has another limit of depth",
    "*/tcb-info-version-4": "reads unknown versions of TCB info (section 9)",
    "*-level-date-of-level": "does not read the dates of levels",
    "*-equal-levels": "takes the first of equal levels (section 10)",
    "*/tcb-info-tcb-type-1": "does not look at tcbType (section 10)",
    "*/tdx-module-identity-*": "reads no module identity that it does not need",
    "*/tcb-info-of-another-pce": "does not compare the PCE-ID (section 9)",
    "*/qe-identity-attributes": "masks the identity's own value; with Intel it can never match (section 10)",
    "*-of-an-older-generation-minimum-17": "has no minimum generation in this call",
    "*/qe-configurationneeded": "the 2026 reading of a QE status; ours is the older, stricter one (section 6)",
    "*/qe-outofdateconfigurationneeded": "the 2026 reading of a QE status; ours is the stricter one (section 6)",
    "*/module-attributes-as-described-but-not-zero": "does not want SEAMATTRIBUTES to be zero; Intel does",
}


def reasons(name: str) -> list[str]:
    """Return the patterns that explain another answer of dcap-qvl to the vector of that name."""
    return [pattern for pattern in REASONS if fnmatchcase(name, pattern)]
