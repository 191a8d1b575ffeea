# SPDX-License-Identifier: Apache-2.0
"""Admission as a webhook, for servers without mutating policies.

``review`` answers an AdmissionReview, ``jsonpatch`` says what changed, ``server`` puts both behind HTTPS.
``certificates`` decides what is issued and when, ``keeper`` carries it out through the API server.
"""
