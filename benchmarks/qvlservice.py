# SPDX-License-Identifier: Apache-2.0
"""dcap-qvl in the smallest service: a quote in, its verdict out. What it leaves out is in docs/benchmarks.md."""

import argparse
import base64
import json
import sys
import time
from pathlib import Path

import dcap_qvl
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def application(collateral: dcap_qvl.QuoteCollateralV3, root: bytes) -> Starlette:
    """Return the service for platforms of one collateral."""

    async def verify(request: Request) -> JSONResponse:
        asked = json.loads(await request.body())
        quote = base64.urlsafe_b64decode(asked["quote"] + "==")
        report = dcap_qvl.verify_with_root_ca(quote, collateral, root, int(time.time()))
        return JSONResponse({"status": report.status, "advisory_ids": report.advisory_ids})

    return Starlette(routes=[Route("/verify", verify, methods=["POST"])])


def main() -> int:
    """Serve until the signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("collateral", type=Path)
    parser.add_argument("root", type=Path)
    options = parser.parse_args()
    collateral = dcap_qvl.QuoteCollateralV3.from_json(options.collateral.read_text(encoding="utf-8"))
    app = application(collateral, options.root.read_bytes())
    uvicorn.run(app, host="127.0.0.1", port=options.port, http="h11", loop="asyncio", lifespan="off", log_config=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
