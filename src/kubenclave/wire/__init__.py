# SPDX-License-Identifier: Apache-2.0
"""Protocols as codecs and state machines: AESM, quote workers, the simulated CPU, metrics."""
