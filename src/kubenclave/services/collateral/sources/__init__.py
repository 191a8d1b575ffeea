# SPDX-License-Identifier: Apache-2.0
"""Where items of collateral come from. What a source hands out is not verified: that is for ``ingest``."""
