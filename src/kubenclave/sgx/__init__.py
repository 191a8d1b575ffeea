# SPDX-License-Identifier: Apache-2.0
"""SGX formats and arithmetic: bytes in, values out."""
