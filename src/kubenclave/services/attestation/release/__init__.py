# SPDX-License-Identifier: Apache-2.0
"""Key release: secrets for enclaves that meet their policy."""
