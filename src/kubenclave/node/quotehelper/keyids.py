# SPDX-License-Identifier: Apache-2.0
"""Questions about attestation key ids, answered without asking anybody."""
