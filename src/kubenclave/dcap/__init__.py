# SPDX-License-Identifier: Apache-2.0
"""DCAP: whether a quote is genuine and current (verify), and whether it is what was wanted (appraise)."""
