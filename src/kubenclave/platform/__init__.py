# SPDX-License-Identifier: Apache-2.0
"""The machine underneath: Linux with SGX, or the simulated platform."""
