# SPDX-License-Identifier: Apache-2.0
"""EPC counted as devices under Azure's name, confcom's first form: the whole way to a quote in either dialect."""

import pytest

from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.release import AZURE, EPC, SIMULATED
from tests.cluster.workloads import RESTRICTED, confidential, quote, restricted

VALUES = {**SIMULATED, "epcMode": "devices", "simulated": {**SIMULATED["simulated"], "epc": "64Mi"}}


@pytest.fixture(scope="module")
def addon(cluster):
    """The add-on with 64 devices of a MiB each on sgx-1."""
    release.pool(cluster, "sgx-1")
    with release.installed(cluster, VALUES):
        restricted(cluster)
        cluster.wait(lambda: allocatable(cluster).get(AZURE) == "64", 60, "EPC devices", NAMESPACE)
        yield
        cluster.delete("namespace", RESTRICTED)


def allocatable(cluster):
    return cluster.get("node", "sgx-1")["status"]["allocatable"]


@pytest.mark.usefixtures("addon")
@pytest.mark.parametrize(("name", "limits"), [("azure", {AZURE: "10"}), ("intel", {EPC: "10Mi"})])
def test_a_pod_gets_its_devices_and_a_quote_in_either_dialect(cluster, name, limits):
    cluster.apply(confidential(name, limits), RESTRICTED)
    pod = cluster.wait_pod(name, RESTRICTED)
    assert pod["spec"]["containers"][0]["resources"]["limits"][AZURE] == "10"
    assert EPC not in allocatable(cluster) or allocatable(cluster)[EPC] == "0"
    assert len(quote(cluster, name)) > 1000
    cluster.delete("pod", name, RESTRICTED)
