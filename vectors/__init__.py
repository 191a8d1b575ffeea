# SPDX-License-Identifier: Apache-2.0
"""Vectors of our own: generated, checked in, and read by the tests."""
