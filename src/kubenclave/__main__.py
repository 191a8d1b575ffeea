# SPDX-License-Identifier: Apache-2.0
"""``python -m kubenclave`` is the command ``kubenclave``."""

from kubenclave.cli.main import main

if __name__ == "__main__":
    main()
