# SPDX-License-Identifier: Apache-2.0
"""The doctor on a real cluster finds what is made to be missing, says nothing else, and needs few rights."""

import json
import os
import subprocess
import sys

import pytest

from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.release import AZURE, EPC, pod

EPC_SIZE = "256Mi"
AESM = {"annotations": {"sgx.intel.com/quote-provider": "aesmd"}}


@pytest.fixture(scope="module")
def addon(cluster):
    release.pool(cluster, "sgx-1")
    with release.installed(cluster, release.SIMULATED):
        yield cluster


@pytest.fixture
def place(addon):
    """A namespace for one test."""
    addon.kubectl("create", "namespace", "doctored")
    yield "doctored"
    addon.kubectl("delete", "namespace", "doctored", "--timeout=60s", timeout=90)


def doctor(cluster, *arguments, kubeconfig=None):
    """Exit code, and findings by code (those that are all well under the empty one)."""
    command = [sys.executable, "-m", "kubenclave", "doctor", *arguments, "--output", "json"]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or cluster.kubeconfig)}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=60)
    found: dict[str, list[str]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["code"], []).append(f"{finding['subject']}: {finding['found']}")
    return done.returncode, found


def problems(cluster, name, namespace):
    code, found = doctor(cluster, "pod", name, "-n", namespace)
    return code, found.keys() - {""}


def test_a_cluster_without_the_add_on(cluster):
    code, found = doctor(cluster, "cluster")
    assert code == 5
    assert found.keys() >= {"doctor.not-installed", "doctor.no-admission", "doctor.no-validation"}


def test_nothing_is_missing_once_it_is_installed(addon):
    addon.wait(lambda: doctor(addon, "cluster")[0] == 0, 60, "the doctor to be content", NAMESPACE)
    _, found = doctor(addon, "cluster")
    assert found.keys() == {""}
    assert f"node sgx-1: {EPC_SIZE} of EPC, SIMULATED, 248Mi free" in found[""]


def test_kubectl_runs_it_as_a_plugin(addon, tmp_path):
    plugin = tmp_path / "kubectl-kubenclave"
    plugin.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubenclave "$@"\n')
    plugin.chmod(0o755)
    tools = f"{tmp_path}:{addon.tool / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, "KUBECONFIG": str(addon.kubeconfig)}
    command = ["kubectl", "kubenclave", "doctor", "cluster"]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is missing" in done.stdout


def test_a_pod_that_lacks_nothing(addon, place):
    good = pod("good", {AZURE: "64"}, place)
    good["metadata"] |= AESM
    addon.apply(good, place)
    addon.wait_pod("good", place)
    code, found = doctor(addon, "pod", "good", "-n", place)
    assert (code, found.keys()) == (0, {""})
    assert "node sgx-1: a quote helper serves AESM here" in found[""]


def test_why_a_pod_waits(addon, place):
    addon.apply([pod("large", {EPC: "1Gi"}, place), pod("half", {EPC: "200Mi"}, place)], place)
    addon.wait_pod("half", place)
    addon.apply(pod("short", {EPC: "100Mi"}, place), place)

    def seen():
        return all("doctor.scheduler" in problems(addon, name, place)[1] for name in ("large", "short"))

    addon.wait(seen, 30, "the scheduler to have looked", place)
    waits = {"doctor.node-unfit", "doctor.scheduler"}
    assert problems(addon, "large", place) == (5, {"doctor.larger-than-any-node"} | waits)
    code, found = doctor(addon, "pod", "short", "-n", place)
    assert (code, found.keys() - {""}) == (5, {"doctor.epc-short"} | waits)
    assert found["doctor.node-unfit"] == ["node sgx-1: 48Mi of 256Mi free; too little EPC free"]
    _, found = doctor(addon, "cluster")
    assert {text.partition(":")[0] for text in found["doctor.pod-waits"]} == {
        f"pod {place}/{n}" for n in ("large", "short")
    }


def test_a_taint_that_the_pod_does_not_tolerate(addon, place):
    addon.kubectl("taint", "node", "sgx-1", "site.example/only=x:NoSchedule")
    try:
        addon.apply(pod("kept-off", {EPC: "1Mi"}, place), place)
        addon.wait(lambda: "doctor.scheduler" in problems(addon, "kept-off", place)[1], 30, "the scheduler", place)
        code, found = doctor(addon, "pod", "kept-off", "-n", place)
        assert code == 5
        assert "doctor.no-node-fits" in found
        assert found["doctor.node-unfit"] == ["node sgx-1: 248Mi of 256Mi free; taint site.example/only not tolerated"]
    finally:
        addon.kubectl("taint", "node", "sgx-1", "site.example/only-")


def test_a_quota_that_keeps_pods_from_being_made(addon, place):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "epc"}}
    addon.apply(quota | {"spec": {"hard": {f"requests.{EPC}": "8Mi"}}}, place)
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod("x", {EPC: "16Mi"})["spec"]}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    addon.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}, place)
    addon.wait(lambda: "doctor.not-created" in problems(addon, "web", place)[1], 30, "the quota to be met", place)
    _, found = doctor(addon, "pod", "web", "-n", place)
    assert "exceeded quota: epc" in found["doctor.not-created"][0]


def test_the_kubelet_refused_it(addon, place):
    addon.apply(pod("all", {EPC: "248Mi"}, place), place)
    addon.wait_pod("all", place)
    forced = pod("forced", {EPC: "1Mi"}, place)
    forced["spec"]["nodeName"] = "sgx-1"
    addon.apply(forced, place)
    addon.wait_pod("forced", place, phase="Failed")
    code, found = doctor(addon, "pod", "forced", "-n", place)
    assert code == 5
    assert "OutOfsgx.intel.com/epc" in found["doctor.kubelet-refused"][0]


def test_no_quote_because_no_helper_runs_there(addon, place):
    asking = pod("asking", {EPC: "1Mi"}, place)
    asking["metadata"] |= AESM
    addon.apply(asking, place)
    addon.wait_pod("asking", place)
    nowhere = json.dumps({"spec": {"template": {"spec": {"nodeSelector": {"kubenclave.test/pool": "nowhere"}}}}})
    back = json.dumps({"spec": {"template": {"spec": {"nodeSelector": {"kubenclave.test/pool": "sgx"}}}}})
    addon.kubectl("-n", NAMESPACE, "patch", "daemonset", "kubenclave-quote-helper", "-p", nowhere)
    try:
        addon.wait(lambda: "doctor.helper-missing" in problems(addon, "asking", place)[1], 60, "the helper to go")
        _, found = doctor(addon, "cluster")
        assert "doctor.part-nowhere" in found
    finally:
        addon.kubectl("-n", NAMESPACE, "patch", "daemonset", "kubenclave-quote-helper", "-p", back)
        addon.wait(lambda: doctor(addon, "cluster")[0] == 0, 90, "the helper to be back", NAMESPACE)


def test_somebody_without_rights_is_told_which(addon, place):
    addon.kubectl("create", "serviceaccount", "viewer", "-n", place)
    kubeconfig = addon.kubeconfig_for("viewer", place)
    code, found = doctor(addon, "cluster", kubeconfig=kubeconfig)
    assert code == 0
    assert len(found["doctor.permission"]) == 9
    assert any("cannot list resource" in text for text in found["doctor.permission"])
    addon.kubectl(
        "create", "rolebinding", "view", "--clusterrole=view", f"--serviceaccount={place}:viewer", "-n", place
    )
    addon.apply(pod("mine", {EPC: "1Gi"}, place), place)
    code, found = doctor(addon, "pod", "mine", "-n", place, kubeconfig=kubeconfig)
    assert code == 5
    assert "doctor.not-scheduled" in found


def test_an_api_server_that_does_not_answer(cluster, tmp_path):
    nowhere = tmp_path / "kubeconfig"
    text = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    text["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    nowhere.write_text(json.dumps(text))
    command = [sys.executable, "-m", "kubenclave", "doctor", "cluster", "--kubeconfig", str(nowhere)]
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 4
    assert "cluster.unreachable" in done.stderr
