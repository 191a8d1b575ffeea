# SPDX-License-Identifier: Apache-2.0
"""Daemons of an SGX node: the agent with its device plugin, and the quote helper."""
