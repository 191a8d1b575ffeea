# SPDX-License-Identifier: Apache-2.0
"""What an API server with one of the two renderings of admission makes of the shared cases."""

import json
import re
import subprocess
from dataclasses import dataclass
from random import Random
from typing import Any

from kubenclave.cluster.admission import Grants, Rules, Site, admit
from kubenclave.cluster.policies import QUOTE_HELPER_ACCOUNT, Settings, mutating_objects, validating_objects
from kubenclave.errors import PolicyError
from tests.admission_cases import GRANTED, NAMESPACE, Case, defaulted, essence, one, random_pod
from tests.cluster.harness.cluster import Cluster

OWN_NAMESPACE = "kubenclave"
CODE = re.compile(r"\[(admission\.[a-z-]+)\]")


@dataclass(frozen=True)
class Answer:
    """What the API server says to a new pod: ``pod`` as it would store it, or a refusal; and its warnings."""

    pod: dict[str, Any] | None
    said: str

    @property
    def codes(self) -> list[str]:
        """Codes of ours in what it says."""
        return CODE.findall(self.said)


def create(cluster: Cluster, pod: dict[str, Any], namespace: str = NAMESPACE, *, dry_run: bool = True) -> Answer:
    """Create a pod, by default without keeping it."""
    command = [
        str(cluster.tool / "bin" / "kubectl"),
        "--kubeconfig",
        str(cluster.kubeconfig),
        "create",
        "-n",
        namespace,
    ]
    command += ["--validate=false", "-o", "json", "-f", "-", *(["--dry-run=server"] if dry_run else [])]
    done = subprocess.run(command, input=json.dumps(pod), capture_output=True, text=True, timeout=60, check=False)
    return Answer(json.loads(done.stdout) if done.returncode == 0 else None, done.stderr)


def policies(rules: Rules) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The mutating and the validating half for the cases of one set of rules."""
    settings = Settings.of(Site(rules, Grants(frozenset({(NAMESPACE, GRANTED)}))), OWN_NAMESPACE)
    return mutating_objects(settings), validating_objects(settings)


def prepare(cluster: Cluster) -> None:
    """Make the namespace and the service accounts of the cases."""
    for namespace, names in ((NAMESPACE, ("default", GRANTED)), (OWN_NAMESPACE, ("default", QUOTE_HELPER_ACCOUNT))):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        accounts = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}} for name in names]
        cluster.apply(accounts, namespace)


def install(cluster: Cluster, rules: Rules, *, mutating: bool = True) -> None:
    """Put both halves of the policies in force, or the validating one alone."""
    first, second = policies(rules)
    if mutating:
        cluster.apply(first)
    else:
        _delete(cluster, first)
    cluster.apply(second)
    in_force(cluster, rules, mutating=mutating)


def uninstall(cluster: Cluster) -> None:
    """Take all policies away, and what ``prepare`` made: who installs the chart next wants the namespace for itself."""
    for half in policies(Rules()):
        _delete(cluster, half)
    cluster.kubectl("delete", "namespace", NAMESPACE, OWN_NAMESPACE, "--ignore-not-found", timeout=120)


def _delete(cluster: Cluster, objects: list[dict[str, Any]]) -> None:
    """Delete policies; older servers know no mutating ones."""
    known = cluster.kubectl("api-resources", "--api-group", "admissionregistration.k8s.io", "--no-headers")
    if objects[0]["kind"] in known.split():
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", text=text)


def in_force(cluster: Cluster, rules: Rules, *, mutating: bool = True) -> None:
    """Wait until the API server goes by these rules: it takes notice of new policies after a moment."""
    uncounted = one({"sgx.intel.com/enclave": 1})
    other = "sgx.intel.com/sgx_epc_mem_in_MiB"

    def there() -> bool:
        answer = create(cluster, one({other: 1}))
        if mutating:
            limits = answer.pod["spec"]["containers"][0]["resources"]["limits"] if answer.pod else {}
            translated = rules.canonical in limits and "sgx.intel.com/enclave" in limits
        else:
            translated = f"expected {rules.canonical}" in answer.said and "admission.untranslated" in answer.codes
        said = create(cluster, uncounted).said
        refused = "admission.epc-missing" in said
        return translated and refused == (rules.enclave_without_epc == "refuse") and (refused or "no EPC" in said)

    cluster.wait(there, 30, "the policies to be in force")


def check(cluster: Cluster, case: Case, *, ours_first: bool = False) -> None:
    """Let the API server answer a case, and compare with the table and with ``admit``.

    ``ours_first`` where our mutating half refuses by itself (the webhook), and says every reason.
    """
    answer = create(cluster, case.pod)
    if case.codes:
        assert answer.pod is None, answer.pod
        assert answer.codes == list(case.codes) or (case.by_server and not ours_first), answer.said
        return
    assert answer.pod is not None, answer.said
    assert all(note in answer.said for note in case.notes), answer.said
    wanted = admit(defaulted(case.pod), provision_granted=case.granted, rules=case.rules)
    assert essence(answer.pod) == essence(wanted.pod)


def check_validating(cluster: Cluster, case: Case) -> None:
    """Let the validating half alone answer a case: it passes what ``admit`` makes of the pod, and refuses the pod."""
    if case.codes:
        answer = create(cluster, case.pod)
        assert answer.pod is None, answer.pod
        wanted = {*case.codes, "admission.untranslated", "admission.enclave-missing"}
        assert case.by_server or wanted.intersection(answer.codes), answer.said
        return
    admitted = admit(case.pod, provision_granted=case.granted, rules=case.rules)
    answer = create(cluster, admitted.pod)
    assert answer.pod is not None, answer.said
    assert all(note in answer.said for note in case.notes), answer.said


def check_random(cluster: Cluster, seed: int, rules: Rules) -> None:
    """Let the API server answer a pod that nobody thought of: it has to say what ``admit`` says.

    It stops at the first policy that refuses, and refuses some by itself, so a refusal may have fewer codes. The policy
    about the provisioning key asks nothing else, ``admit`` asks for the key last.
    """
    pod = random_pod(Random(seed))
    answer = create(cluster, pod)
    try:
        granted = pod["spec"].get("serviceAccountName") == GRANTED
        wanted = admit(defaulted(pod), provision_granted=granted, rules=rules)
    except PolicyError as error:
        codes = {finding.code for finding in error.findings}
        assert answer.pod is None, (codes, pod)
        assert set(answer.codes) <= codes | {"admission.provision-refused"}, (answer.said, pod)
        assert answer.codes or "admission.requests-differ" in codes, (answer.said, pod)
    else:
        assert answer.pod is not None, (answer.said, pod)
        assert essence(answer.pod) == essence(wanted.pod), pod
