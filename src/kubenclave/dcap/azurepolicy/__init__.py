# SPDX-License-Identifier: Apache-2.0
"""Azure Attestation's policy grammar, versions 1.0 to 1.2: text in, a policy that decides over claims out.

The language is total and deterministic: no clock, no network, everything bounded, and any error refuses.
docs/azure-policies.md says what is understood and where Azure's documents leave room.
"""

from kubenclave.dcap.azurepolicy.claims import Claim, ClaimIssuer, Scalar, claims_of, is_reserved
from kubenclave.dcap.azurepolicy.defaults import DEFAULT_POLICIES, DEFAULT_SGX_POLICY, DEFAULT_TDX_POLICY
from kubenclave.dcap.azurepolicy.policy import AzurePolicy, Evaluation, azure_policy_digest, parse

__all__ = [
    "DEFAULT_POLICIES",
    "DEFAULT_SGX_POLICY",
    "DEFAULT_TDX_POLICY",
    "AzurePolicy",
    "Claim",
    "ClaimIssuer",
    "Evaluation",
    "Scalar",
    "azure_policy_digest",
    "claims_of",
    "is_reserved",
    "parse",
]
