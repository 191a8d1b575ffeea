# SPDX-License-Identifier: Apache-2.0
"""``python -m kubenclave.node.quotehelper``."""

import sys

from kubenclave.node.quotehelper.main import main

if __name__ == "__main__":
    sys.exit(main())
