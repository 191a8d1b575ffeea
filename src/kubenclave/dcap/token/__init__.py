# SPDX-License-Identifier: Apache-2.0
"""Claims of attestation tokens, made from a judgement: one dialect a module, nothing signed here."""
