#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A quote made in the workload's own process: no AESM, but the provisioning key, which has to have been granted.

The quoting enclave is loaded here, through the provision socket of the SIMULATED platform. On SGX hardware Intel's
libsgx_dcap_ql does the same with /dev/sgx_provision.
"""

import base64
import os
import sys
from pathlib import Path

from kubenclave.platform.simcpu import Enclave
from kubenclave.platform.simulated.enclaves import EnclaveImage
from kubenclave.platform.simulated.quoting import QuotingEnclave
from kubenclave.sgx.report import TargetInfo

REPORT_DATA = b"made in process".ljust(64, b"\0")


def load(image: EnclaveImage) -> Enclave:
    """Load one of the quoting enclaves where enclaves may have the provisioning key."""
    connection = Enclave.connect(Path(os.environ["KUBENCLAVE_SIM_PROVISION"]))
    image.load(connection)
    return connection


def main() -> int:
    """Print a quote of the enclave that this was started in, in base64."""
    enclave = Enclave.inherited(os.environ)
    if enclave is None:
        print("start this with: kubenclave sim run -- quote.py", file=sys.stderr)
        return 1
    quoting = QuotingEnclave(load)
    target = TargetInfo.parse(quoting.init().target_info)
    quote = quoting.quote(enclave.report(target, REPORT_DATA)).quote
    print(base64.b64encode(quote).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
