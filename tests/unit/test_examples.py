# SPDX-License-Identifier: Apache-2.0
"""Examples do what they are there to show: admitted by the rules, without privilege, in both dialects."""

from pathlib import Path

import pytest
import yaml

from kubenclave.cluster.admission import admit
from kubenclave.errors import PolicyError
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, EPC_RESOURCE, MIB, PROVISION_RESOURCE

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
WITH_HOST_PATH = {"pod-azure.yaml"}  # as Azure's guides have it


def objects(path):
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def pods():
    """Return each pod of an example, by file and name, as its controller would create it."""
    found = []
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        for document in objects(path):
            template = document if document["kind"] == "Pod" else document.get("spec", {}).get("template")
            if template is not None:
                pod = {"apiVersion": "v1", "kind": "Pod", **{k: template[k] for k in ("metadata", "spec")}}
                name = f"{path.relative_to(EXAMPLES)}:{document['metadata']['name']}"
                found.append(pytest.param(path.name, pod, id=name))
    return found


EPC = {
    "hello-azure": 10 * MIB,
    "web-azure": 10 * MIB,
    "web-intel": 10 * MIB,
    "in-process": 10 * MIB,
    "batch": 8 * MIB,
    "busy": 4 * MIB,
    "vault": 16 * MIB,
    "front": 0,
    "hello-intel": 10 * MIB,
}


@pytest.mark.parametrize(("file", "pod"), pods())
def test_admission_completes_what_the_example_asks_for(file, pod, request):
    name = request.node.callspec.id.removeprefix(f"{file}:").rpartition(":")[2]
    admitted = admit(pod, provision_granted=name == "in-process")
    assert admitted.epc == EPC[name]
    limits = admitted.pod["spec"]["containers"][0]["resources"]["limits"]
    assert AZURE_EPC_RESOURCE not in limits
    assert (EPC_RESOURCE in limits) == (ENCLAVE_RESOURCE in limits) == bool(EPC[name])
    assert (PROVISION_RESOURCE in limits) == (name == "in-process")
    assert not admitted.notes


@pytest.mark.parametrize(("file", "pod"), pods())
def test_examples_ask_for_no_privilege(file, pod):
    spec = pod["spec"]
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    host_paths = [volume for volume in spec.get("volumes", []) if "hostPath" in volume]
    assert bool(host_paths) == (file in WITH_HOST_PATH)
    assert not any(container.get("securityContext", {}).get("privileged") for container in spec["containers"])


def test_the_provisioning_key_has_to_be_granted():
    [pod] = [param.values[1] for param in pods() if str(param.id).endswith(":in-process")]
    with pytest.raises(PolicyError, match="provision"):
        admit(pod)


def test_both_dialects_of_the_web_server_are_the_same_server():
    texts = [
        (EXAMPLES / "web-server" / f"{dialect}.yaml").read_text(encoding="utf-8") for dialect in ("azure", "intel")
    ]
    lines = [{line.replace("azure", "?").replace("intel", "?") for line in text.splitlines()[1:]} for text in texts]
    differing = {line.strip().split(":")[0] for line in lines[0] ^ lines[1]}
    expected = {"kubernetes.?.com/sgx_epc_mem_in_MiB", "sgx.?.com/epc", "annotations", "sgx.?.com/quote-provider"}
    assert differing == expected | {"- {name"}


def test_images_are_those_of_the_chart():
    chart = yaml.safe_load((ROOT / "charts/kubenclave/Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((ROOT / "charts/kubenclave/values.yaml").read_text(encoding="utf-8"))
    wanted = f"{values['image']['repository']}:{chart['appVersion']}"
    images = {c["image"] for param in pods() for c in param.values[1]["spec"]["containers"]}
    assert images == {wanted, "python:3.12-slim"}


def test_the_readme_lists_every_example():
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tops = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert [name for name in sorted(tops) if f"({name})" not in readme] == []
