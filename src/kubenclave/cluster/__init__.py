# SPDX-License-Identifier: Apache-2.0
"""What a cluster needs once: admission, exporter, issuer; and what people ask of it: doctor, cleanup."""
