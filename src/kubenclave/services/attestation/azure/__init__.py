# SPDX-License-Identifier: Apache-2.0
"""Microsoft Azure Attestation's REST API over the attestation service: its routes, its shapes, who may write."""
