# SPDX-License-Identifier: Apache-2.0
"""Signing keys: made, read, kept, rolled over, shown."""
