# SPDX-License-Identifier: Apache-2.0
"""Quote helper: an AESM server whose quotes come from a worker process of its own (aesm.md)."""
