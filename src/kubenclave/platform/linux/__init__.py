# SPDX-License-Identifier: Apache-2.0
"""SGX as Linux shows it, from Ubuntu 18.04 with Intel's driver to today's kernels."""
