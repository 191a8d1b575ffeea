# SPDX-License-Identifier: Apache-2.0
"""Generated messages; see tools/generate_proto.py."""
