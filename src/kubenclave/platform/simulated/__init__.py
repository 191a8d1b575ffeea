# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED SGX platform: processor, quoting enclave and PKI in software."""
