# SPDX-License-Identifier: Apache-2.0
"""Each thing that can be wrong with a cluster or a pod is found, named by its code, and nothing else is."""

import asyncio
import base64
import datetime as dt
from copy import deepcopy

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kubenclave.cluster import api as cluster
from kubenclave.cluster.api import Listing
from kubenclave.cluster.diagnose.examine import CLUSTER_KINDS, NAMESPACE_KINDS, judge_cluster, judge_pod, read
from kubenclave.cluster.diagnose.model import Layer, Snapshot, State, worst
from kubenclave.cluster.diagnose.scheduling import tolerates
from kubenclave.errors import ClusterError

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
KINDS = (*CLUSTER_KINDS, *NAMESPACE_KINDS)
READY = {"type": "Ready", "status": "True"}
SGX_READY = {"type": "SGXReady", "status": "True", "reason": "Usable", "message": "all is well"}
EPC, AZURE, ENCLAVE = "sgx.intel.com/epc", "kubernetes.azure.com/sgx_epc_mem_in_MiB", "sgx.intel.com/enclave"


def named(name, namespace=None, **more):
    return {"metadata": {"name": name, **({"namespace": namespace} if namespace else {})}, **more}


def daemon_set(name, ready=1, wanted=1, image="r/kubenclave:1", namespace="kubenclave"):
    status = {"numberReady": ready, "desiredNumberScheduled": wanted}
    spec = {"template": {"spec": {"containers": [{"image": image}]}}}
    return named(name, namespace, status=status, spec=spec)


def deployment(name, ready=1, wanted=1):
    return named(name, "kubenclave", status={"readyReplicas": ready}, spec={"replicas": wanted})


def node(name="sgx-1", epc="128Mi", enclave="110", conditions=(READY, SGX_READY), **more):
    amounts = {EPC: epc, ENCLAVE: enclave}
    made = named(name, status={"capacity": amounts, "allocatable": dict(amounts), "conditions": list(conditions)})
    made["metadata"]["labels"] = {"kubenclave.dev/sgx": "true"}
    made["spec"] = more
    return made


def agent_pod(owner="kubenclave-node-agent", where="sgx-1", ready=True):
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    made = named(f"{owner}-x", "kubenclave", spec={"nodeName": where}, status={"conditions": conditions})
    made["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": owner}]
    return made


def pod(name="web", where=None, epc="64Mi", phase="Pending", *, resources=None, env=(), **spec):
    limits = {EPC: epc, ENCLAVE: "1"} if resources is None else resources
    containers = [{"name": "main", "resources": {"limits": limits}, "env": list(env)}]
    spec = {"containers": containers, **({"nodeName": where} if where else {}), **spec}
    return named(name, "shop", spec=spec, status={"phase": phase})


def policy_pair(kind="mutate"):
    return [named(f"kubenclave-{kind}")], [named(f"kubenclave-{kind}-b", spec={"policyName": f"kubenclave-{kind}"})]


def good():
    """A cluster that lacks nothing."""
    mutating, mutating_bindings = policy_pair()
    validating, validating_bindings = policy_pair("validate")
    return {
        cluster.NODES: [node(), named("plain-1", status={"conditions": [READY]})],
        cluster.PODS: [agent_pod(), agent_pod("kubenclave-quote-helper"), pod("runs", "sgx-1", phase="Running")],
        cluster.DAEMON_SETS: [daemon_set("kubenclave-node-agent"), daemon_set("kubenclave-quote-helper")],
        cluster.DEPLOYMENTS: [deployment("kubenclave-exporter"), deployment("unrelated", 0)],
        cluster.MUTATING_POLICIES: mutating,
        cluster.MUTATING_BINDINGS: mutating_bindings,
        cluster.VALIDATING_POLICIES: validating,
        cluster.VALIDATING_BINDINGS: validating_bindings,
    }


def changed(**more):
    """The good cluster with other objects of some kinds."""
    return {**good(), **{getattr(cluster, name): value for name, value in more.items()}}


def webhook(bundle="", policy="Fail"):
    client = {"caBundle": bundle}
    return [named("kubenclave-webhook", webhooks=[{"name": "w", "failurePolicy": policy, "clientConfig": client}])]


def authority(begins, ends):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begins).not_valid_after(ends)
    return base64.b64encode(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)).decode()


def codes(findings, *, but=(State.OK,)):
    return [finding.code for finding in findings if finding.state not in but]


def examine(objects, version=(1, 36), denied=()):
    snapshot = Snapshot(version, objects, dict.fromkeys(denied, "may not be read"))
    return judge_cluster(snapshot, NOW)


def test_a_good_cluster_lacks_nothing():
    findings = examine(good())
    assert codes(findings) == []
    assert worst(findings) is None
    assert [one.found for one in findings if one.layer is Layer.NODES] == ["128Mi of EPC, 64Mi free"]
    assert {one.code for one in findings} == {""}


DAY = dt.timedelta(days=1)
LABELLED = {"labels": {"sgx.intel.com/capable": "true"}}
TAINT = {"key": EPC, "effect": "NoSchedule"}
STARTUP = {"key": "startup-taint.cluster-autoscaler.kubernetes.io/sgx", "effect": "NoSchedule"}
BROKEN = {"type": "SGXReady", "status": "False", "reason": "NoDriver", "message": "[x.y] no driver"}

CLUSTERS = {
    "doctor.not-installed": changed(DAEMON_SETS=[]),
    "doctor.installed-twice": changed(
        DAEMON_SETS=[*good()[cluster.DAEMON_SETS], daemon_set("kubenclave-node-agent", namespace="other")]
    ),
    "doctor.no-quote-helper": changed(DAEMON_SETS=[daemon_set("kubenclave-node-agent")]),
    "doctor.part-not-ready": changed(DEPLOYMENTS=[deployment("kubenclave-webhook", 1, 2)]),
    "doctor.part-nowhere": changed(
        DAEMON_SETS=[*good()[cluster.DAEMON_SETS], daemon_set("kubenclave-simulator", 0, 0)]
    ),
    "doctor.foreign-plugin": changed(
        DAEMON_SETS=[*good()[cluster.DAEMON_SETS], daemon_set("p", image="intel/intel-sgx-plugin:0.36@sha256:00")]
    ),
    "doctor.no-admission": changed(MUTATING_POLICIES=[], MUTATING_BINDINGS=[]),
    "doctor.policy-unbound": changed(VALIDATING_BINDINGS=[]),
    "doctor.policy-warning": changed(
        MUTATING_POLICIES=[
            named("kubenclave-mutate", status={"typeChecking": {"expressionWarnings": [{"warning": "undefined"}]}})
        ]
    ),
    "doctor.no-validation": changed(VALIDATING_POLICIES=[], VALIDATING_BINDINGS=[]),
    "doctor.webhook-no-ca": changed(MUTATING_WEBHOOKS=webhook()),
    "doctor.webhook-fails-open": changed(MUTATING_WEBHOOKS=webhook(authority(NOW - DAY, NOW + DAY), "Ignore")),
    "doctor.certificate-expired": changed(MUTATING_WEBHOOKS=webhook(authority(NOW - 2 * DAY, NOW - DAY))),
    "doctor.certificate-overdue": changed(MUTATING_WEBHOOKS=webhook(authority(NOW - 99 * DAY, NOW + DAY))),
    "doctor.no-sgx-node": changed(NODES=[named("plain-1")], PODS=[]),
    "doctor.node-down": changed(NODES=[node(conditions=[SGX_READY])]),
    "doctor.node-not-ready": changed(NODES=[node(conditions=[READY, BROKEN])]),
    "doctor.node-silent": changed(NODES=[node(conditions=[READY])]),
    "doctor.node-without-agent": changed(PODS=[agent_pod("kubenclave-quote-helper")]),
    "doctor.epc-without-devices": changed(NODES=[node(enclave="0")]),
    "doctor.devices-without-epc": changed(NODES=[node(epc="0")], PODS=[agent_pod()]),
    "doctor.label-without-epc": changed(NODES=[node(epc="0", enclave="0")], PODS=[agent_pod()]),
    "doctor.startup-taint": changed(NODES=[node(taints=[STARTUP])]),
    "doctor.over-commit": changed(PODS=[agent_pod(), pod("big", "sgx-1", "256Mi", "Running")]),
    "doctor.pod-waits": changed(PODS=[agent_pod(), pod()]),
    "doctor.half-equipped": changed(PODS=[agent_pod(), pod("half", "sgx-1", resources={EPC: "1Mi"})]),
}


@pytest.mark.parametrize("code", CLUSTERS)
def test_one_thing_wrong_with_a_cluster_is_one_finding(code):
    findings = examine(CLUSTERS[code])
    assert codes(findings) == [code]
    (found,) = (one for one in findings if one.code)
    assert found.next_step
    assert found.subject
    assert findings == sorted(findings, key=lambda one: list(Layer).index(one.layer))


def test_a_node_kept_for_sgx_without_any():
    kept = node(epc="0", enclave="0", taints=[TAINT])
    kept["metadata"]["labels"] = {}
    assert codes(examine(changed(NODES=[kept], PODS=[agent_pod()]))) == ["doctor.taint-without-epc"]


def test_one_ledger():
    twice = node()
    twice["status"]["capacity"][AZURE] = "128"
    assert codes(examine(changed(NODES=[twice]))) == ["doctor.two-ledgers"]


def test_pods_on_a_node_that_withdrew():
    gone = node(epc="0", enclave="0", conditions=[READY, BROKEN])
    findings = codes(examine(changed(NODES=[gone])))
    assert findings == ["doctor.node-not-ready", "doctor.label-without-epc", "doctor.withdrawn"]


def test_a_startup_taint_by_the_name_that_the_site_gave_it():
    agent = daemon_set("kubenclave-node-agent")
    agent["spec"]["template"]["spec"]["containers"][0]["args"] = ["--startup-taint=site.example/wait"]
    waiting = node(taints=[{"key": "site.example/wait"}, {"key": "site.example/other"}])
    objects = changed(NODES=[waiting], DAEMON_SETS=[agent, daemon_set("kubenclave-quote-helper")])
    (found,) = (one for one in examine(objects) if one.code)
    assert (found.code, found.found) == ("doctor.startup-taint", "still has the taint site.example/wait")


def test_aesm_away_is_a_warning():
    away = node()
    away["metadata"]["annotations"] = {"kubenclave.dev/aesm": "absent"}
    findings = examine(changed(NODES=[away]))
    assert codes(findings) == ["doctor.node-without-aesm"]
    assert worst(findings) is None


def test_a_devices_cluster_needs_no_second_device():
    by_mib = node()
    by_mib["status"]["capacity"] = by_mib["status"]["allocatable"] = {AZURE: "128", ENCLAVE: "110"}
    running = pod("runs", "sgx-1", phase="Running", resources={AZURE: "64"})
    assert codes(examine(changed(NODES=[by_mib], PODS=[agent_pod(), running]))) == []


def test_a_pod_of_ours_that_does_not_start():
    broken = agent_pod()
    broken["metadata"]["labels"] = {"app.kubernetes.io/part-of": "kubenclave"}
    broken["status"]["containerStatuses"] = [{"name": "agent", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    findings = examine(changed(PODS=[broken]))
    assert codes(findings) == ["doctor.container-waits"]
    assert [one.layer for one in findings if one.code] == [Layer.ADD_ON]


def test_an_old_server():
    assert codes(examine(good(), (1, 29))) == ["doctor.version"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_may_not_be_read_is_said_and_nothing_is_made_of_it(kind):
    objects = {key: value for key, value in good().items() if key is not kind}
    findings = examine(objects, denied=[kind])
    assert codes(findings) == ["doctor.permission"]
    assert worst(findings) is None


def test_nothing_may_be_read():
    findings = examine({}, denied=KINDS)
    assert set(codes(findings)) == {"doctor.permission"}


# Pods.


def examine_pod(wanted, objects=None, **events):
    snapshot = Snapshot((1, 36), objects or good() | {cluster.EVENTS: list(events.values())})
    return judge_pod("shop", "web", wanted, snapshot)


def problems(wanted, objects=None, **events):
    return codes(examine_pod(wanted, objects, **events), but=(State.OK, State.WARNING))


def event(kind, name, reason, message, type_="Warning"):
    return {"involvedObject": {"kind": kind, "name": name}, "reason": reason, "message": message, "type": type_}


def running(**more):
    return pod(where="sgx-1", phase="Running", **more)


def with_status(made, **status):
    made["status"] |= status
    return made


AESM = {"name": "SGX_AESM_ADDR", "value": "1"}


def test_a_running_pod_with_quotes_lacks_nothing():
    wanted = running(env=[AESM])
    findings = examine_pod(wanted, changed(PODS=[*good()[cluster.PODS][:2], wanted]))
    assert codes(findings) == []
    assert findings[-1].found == "a quote helper serves AESM here"


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("doctor.asks-nothing", pod(resources={}, where="sgx-1")),
        ("doctor.larger-than-any-node", pod(epc="1Gi")),
        ("doctor.epc-short", pod(epc="96Mi")),
        ("doctor.gated", pod(schedulingGates=[{"name": "site/queue"}])),
        ("doctor.no-node-fits", pod(nodeSelector={"zone": "b"})),
        ("doctor.half-equipped", running(resources={EPC: "1Mi"})),
        ("doctor.kubelet-refused", with_status(running(), reason="UnexpectedAdmissionError", phase="Failed")),
        ("doctor.kubelet-refused", with_status(running(), reason="OutOfsgx.intel.com/epc", phase="Failed")),
        (
            "doctor.container-waits",
            with_status(running(), containerStatuses=[{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
        ),
    ],
)
def test_one_thing_wrong_with_a_pod(code, wanted):
    assert problems(wanted) == [code]


def test_a_dialect_that_nobody_translated():
    assert problems(pod(resources={AZURE: "10"}, where="sgx-1")) == ["doctor.untranslated", "doctor.half-equipped"]


def test_a_taint_that_is_not_tolerated_is_named():
    findings = examine_pod(pod(), changed(NODES=[node(taints=[TAINT])]))
    assert [one.found for one in findings if one.code == "doctor.node-unfit"] == [
        f"64Mi of 128Mi free; taint {EPC} not tolerated"
    ]
    tolerant = pod(tolerations=[{"key": EPC, "operator": "Exists"}])
    assert problems(tolerant, changed(NODES=[node(taints=[TAINT])])) == []


def test_what_the_scheduler_says_stands_beside_ours():
    waiting = pod(epc="96Mi")
    waiting["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "message": "0/2 nodes are available: 2 Insufficient cpu. preemption: none.",
        }
    ]
    findings = {one.code: one.found for one in examine_pod(waiting)}
    assert findings["doctor.scheduler"] == "0/2 nodes are available: 2 Insufficient cpu."
    assert findings["doctor.epc-short"] == "asks 96Mi of EPC, the most that is free on one node is 64Mi"


def test_all_enclave_devices_taken():
    assert problems(pod(), changed(NODES=[node(enclave="1")])) == ["doctor.no-node-fits"]


@pytest.mark.parametrize(
    ("code", "pods"),
    [
        ("doctor.helper-missing", [agent_pod()]),
        ("doctor.helper-not-ready", [agent_pod(), agent_pod("kubenclave-quote-helper", ready=False)]),
    ],
)
def test_no_quote_because_of_the_helper(code, pods):
    wanted = running(env=[AESM])
    assert problems(wanted, changed(PODS=[*pods, wanted])) == [code]


def test_annotated_too_late():
    wanted = running()
    wanted["metadata"]["annotations"] = {"sgx.intel.com/quote-provider": "aesmd"}
    assert problems(wanted) == ["doctor.no-aesm-variable"]


def test_warnings_of_the_cluster_are_quoted():
    findings = examine_pod(
        pod(where="sgx-1"),
        one=event("Pod", "web", "FailedCreatePodSandBox", "no network\nat all"),
        other=event("Pod", "other", "FailedMount", "x"),
        good=event("Pod", "web", "Scheduled", "x", "Normal"),
    )
    assert [one.found for one in findings if one.code == "doctor.event"] == [
        "FailedCreatePodSandBox: no network at all"
    ]


def test_a_pod_that_a_quota_kept_from_being_made():
    findings = examine_pod(None, one=event("ReplicaSet", "web-5d9", "FailedCreate", "exceeded quota: epc"))
    assert codes(findings) == ["doctor.not-created"]
    assert "exceeded quota: epc" in findings[0].found


def test_a_pod_that_is_not_there():
    assert codes(examine_pod(None)) == ["doctor.no-such-pod"]


def test_a_quota_that_is_used_up():
    key = f"requests.{EPC}"
    quota = named("epc", "shop", status={"hard": {key: "64Mi"}, "used": {key: "64Mi"}})
    objects = changed(RESOURCE_QUOTAS=[quota])
    assert codes(examine_pod(running(), objects)) == ["doctor.quota-used-up"]
    less = deepcopy(quota)
    less["status"]["used"][key] = "32Mi"
    assert codes(examine_pod(running(), changed(RESOURCE_QUOTAS=[less]))) == []


@pytest.mark.parametrize(
    ("toleration", "good"),
    [
        ({"operator": "Exists"}, True),
        ({"key": EPC, "operator": "Exists"}, True),
        ({"key": EPC, "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": EPC, "value": "true"}, True),
        ({"key": EPC}, False),
        ({"key": AZURE, "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration, good):
    assert tolerates([toleration], {**TAINT, "value": "true"}) is good


class FakeApi:
    """Answers reads like an API server that knows pods and nodes, forbids quotas and lacks everything else."""

    async def read(self, path):
        assert path == "/version"
        return {"major": "1", "minor": "34+"}

    async def list(self, kind, *, namespace=None, keep=None):
        if kind.plural == "resourcequotas":
            raise ClusterError("API server: quotas is forbidden", code="cluster.forbidden")
        found = {"pods": [pod(), pod("plain", resources={}), agent_pod()], "nodes": [node()]}.get(kind.plural)
        if found is None:
            raise ClusterError("API server: not found", code="cluster.not-found")
        return Listing([kept for one in found if (kept := keep(one) if keep else one)], "1")


def test_what_is_read_of_a_cluster():
    snapshot = asyncio.run(read(FakeApi(), namespace="shop"))  # type: ignore[arg-type]
    assert snapshot.version == (1, 34)
    assert [one["metadata"]["name"] for one in snapshot.of(cluster.PODS)] == ["web", "kubenclave-node-agent-x"]
    assert snapshot.denied == {cluster.RESOURCE_QUOTAS: "may not be read: API server: quotas is forbidden"}
    assert snapshot.can_tell(cluster.MUTATING_POLICIES)


class AwayApi(FakeApi):
    async def list(self, kind, *, namespace=None, keep=None):
        raise ClusterError("API server: etcd is away", code="cluster.failed")


def test_other_failures_are_not_taken_for_missing_rights():
    with pytest.raises(ClusterError):
        asyncio.run(read(AwayApi()))  # type: ignore[arg-type]
