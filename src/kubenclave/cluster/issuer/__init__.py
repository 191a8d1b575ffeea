# SPDX-License-Identifier: Apache-2.0
"""The issuer of a cluster's SIMULATED platforms: it alone has the root, nodes get certificates for public keys."""
