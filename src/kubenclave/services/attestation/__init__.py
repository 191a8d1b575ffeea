# SPDX-License-Identifier: Apache-2.0
"""Attestation service: evidence in, signed results out, every verdict in a log that can only grow."""
