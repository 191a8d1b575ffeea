# SPDX-License-Identifier: Apache-2.0
"""``python -m kubenclave.node.quotehelper``."""

import sys

if __name__ == "__main__":
    # structlog would load rich for colours that this program never shows, and with it 4 MB.
    sys.modules["rich"] = None  # type: ignore[assignment]  # None is how Python is told that there is no such module

    from kubenclave.node.quotehelper.main import main

    sys.exit(main())
