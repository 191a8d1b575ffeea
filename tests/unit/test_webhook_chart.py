# SPDX-License-Identifier: Apache-2.0
"""The chart's half of the webhook agrees with the program's."""

import click
import pytest

from kubenclave.cli.cluster.webhook import command
from kubenclave.cluster.policies.cel import ASKS_FOR_SGX
from kubenclave.cluster.webhook.keeper import Place
from tests.chart import NAMESPACE, VARIATIONS, helm, render

pytestmark = pytest.mark.skipif(helm() is None, reason="Helm is not built: make cluster-tools")
PLACE = Place(NAMESPACE)


def found(kind, variation="webhook"):
    (one,) = [
        each
        for each in render(VARIATIONS[variation])
        if each["kind"] == kind and each["metadata"]["name"].startswith("kubenclave-webhook")
    ]
    return one


def test_the_same_pods_meet_it_that_meet_the_policies():
    (hook,) = found("MutatingWebhookConfiguration")["webhooks"]
    (condition,) = hook["matchConditions"]
    assert condition["expression"].split() == ASKS_FOR_SGX.split()
    assert hook["failurePolicy"] == "Fail"
    assert hook["sideEffects"] == "None"


def test_names_are_those_the_program_looks_for():
    configuration, secret, service = (found(kind) for kind in ("MutatingWebhookConfiguration", "Secret", "Service"))
    assert configuration["metadata"]["name"] == PLACE.configuration
    assert secret["metadata"]["name"] == PLACE.secret
    assert service["metadata"]["name"] == PLACE.service
    reference = configuration["webhooks"][0]["clientConfig"]["service"]
    assert f"{reference['name']}.{reference['namespace']}.svc" == PLACE.dns_names[0]
    assert reference["path"] == "/mutate"


def test_what_is_made_at_run_time_is_in_no_template():
    (hook,) = found("MutatingWebhookConfiguration")["webhooks"]
    assert "caBundle" not in hook["clientConfig"]
    assert not {"data", "stringData"} & found("Secret").keys()


@pytest.mark.parametrize("variation", ["webhook", "most"])
def test_the_programs_arguments_are_its_own(variation):
    (container,) = found("Deployment", variation)["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["cluster", "webhook"]
    context = command.make_context("webhook", container["args"][2:])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (context.params["port"], context.params["health_port"]) == (ports["webhook"], ports["metrics"])
    assert isinstance(context, click.Context)
    allowed = VARIATIONS[variation].get("provision", {}).get("allowed", [])
    pairs = [(entry["namespace"], name) for entry in allowed for name in entry["serviceAccounts"]]
    assert list(context.params["allow"]) == pairs


def test_rights_are_for_its_own_objects_alone():
    for kind in ("Role", "ClusterRole"):
        for rule in found(kind)["rules"]:
            assert rule["resourceNames"] in ([PLACE.secret], [PLACE.configuration])
            assert "create" not in rule["verbs"]
