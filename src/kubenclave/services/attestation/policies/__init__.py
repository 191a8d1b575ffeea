# SPDX-License-Identifier: Apache-2.0
"""Policies in force and their signers, tried and compared on evidence that was kept."""
