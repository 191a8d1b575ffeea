# SPDX-License-Identifier: Apache-2.0
"""Services for relying parties: the collateral cache and the attestation service."""
