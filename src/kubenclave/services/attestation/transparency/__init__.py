# SPDX-License-Identifier: Apache-2.0
"""The log of verdicts: append-only, its proofs, what it rested on, and its routes."""
