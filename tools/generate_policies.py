#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the chart's admission policies out of the rule table. A test tells when they are behind it."""

from pathlib import Path

from kubenclave.cluster.policies.render import chart_files

FOLDER = Path(__file__).resolve().parents[1] / "charts" / "kubenclave" / "templates" / "admission"


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in chart_files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
