# SPDX-License-Identifier: Apache-2.0
"""Quotes, certificates and verdicts as people and programs get to see them. Nothing in here decides anything."""
