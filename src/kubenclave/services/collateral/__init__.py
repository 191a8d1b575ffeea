# SPDX-License-Identifier: Apache-2.0
"""Collateral cache: what Intel publishes about platforms, verified on entry and served as PCS and PCCS serve it."""
