# SPDX-License-Identifier: Apache-2.0
"""The policies as objects, as YAML and as the chart's templates. What they do is tested on a real API server."""

import json
import re

import pytest
import yaml

from kubenclave.cli.main import run
from kubenclave.cluster.admission import EnclaveWithoutEpc, Grants, Site
from kubenclave.cluster.admission.table import DIALECTS, Refusal
from kubenclave.cluster.exporter.daemon import capacity_map
from kubenclave.cluster.policies import ASKS_FOR_SGX, Settings, cel, mutating_objects, validating_objects
from kubenclave.cluster.policies.render import chart_files, to_yaml
from kubenclave.sgx.epc import EpcMode
from tests.chart import CHART, NAMESPACE, helm, render

GRANTS = Grants(frozenset({("attestation", "quotes"), ("attestation", "registration"), (NAMESPACE, "intruder")}))
SETTINGS = Settings.of(Site(grants=GRANTS), NAMESPACE)
POLICY_KINDS = re.compile("(Validating|Mutating)AdmissionPolicy")


def everything(settings=SETTINGS):
    return [*mutating_objects(settings), *validating_objects(settings)]


def expressions(one):
    if isinstance(one, dict):
        for key, value in one.items():
            if key in {"expression", "messageExpression", "valueExpression"}:
                yield value
            yield from expressions(value)
    elif isinstance(one, list):
        for value in one:
            yield from expressions(value)


def test_the_templates_of_the_chart_are_those_of_the_table():
    folder = CHART / "templates" / "admission"
    checked_in = {path.name: path.read_text() for path in folder.glob("*.yaml") if path.name in chart_files()}
    assert checked_in == chart_files(), "make policies"


@pytest.mark.skipif(helm() is None, reason="Helm is not built: make cluster-tools")
@pytest.mark.parametrize("epc_mode", EpcMode)
@pytest.mark.parametrize("without_epc", EnclaveWithoutEpc)
@pytest.mark.parametrize("mode", ["policies", "webhook"])
def test_helm_and_the_command_line_make_the_same_objects(capsys, epc_mode, without_epc, mode):
    allowed = [
        {"namespace": "attestation", "serviceAccounts": ["registration", "quotes"]},
        {"namespace": NAMESPACE, "serviceAccounts": ["intruder"]},
    ]
    values = {
        "epcMode": epc_mode.value,
        "admission": {"mode": mode, "enclaveWithoutEpc": without_epc.value},
        "provision": {"allowed": allowed},
    }
    words = ["cluster", "policies", "--epc-mode", epc_mode.value, "--enclave-without-epc", without_epc.value]
    words += [
        "--allow",
        "attestation/quotes",
        "--allow",
        "attestation/registration",
        "--allow",
        f"{NAMESPACE}/intruder",
    ]
    words += ["--validating-only"] if mode == "webhook" else []
    assert run(words) == 0
    ours = list(yaml.safe_load_all(capsys.readouterr().out))
    names = {(one["kind"], one["metadata"]["name"]) for one in ours}
    theirs = [one for one in render(values) if (one["kind"], one["metadata"]["name"]) in names]
    mutating = {one["kind"] for one in render(values) if one["kind"].startswith("MutatingAdmissionPolicy")}
    assert bool(mutating) == (mode == "policies")
    for one in [*ours, *theirs]:
        del one["metadata"]["labels"]

    def by_name(one):
        return one["kind"], one["metadata"]["name"]

    assert sorted(ours, key=by_name) == sorted(theirs, key=by_name)


def test_json_is_a_list_that_kubectl_takes(capsys):
    assert run(["cluster", "policies", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == everything(Settings.of(Site(), "kubenclave"))


@pytest.mark.parametrize("account", ["attestation", "/quotes", "attestation/", "a/b/c"])
def test_an_account_needs_its_namespace(account):
    assert run(["cluster", "policies", "--allow", account]) == 2


def test_every_policy_has_its_binding_and_a_name_of_ours():
    kinds = {(one["kind"], one["metadata"]["name"]) for one in everything()}
    for kind, name in kinds:
        assert name.startswith("kubenclave-")
        if not kind.endswith("Binding"):
            assert (f"{kind}Binding", name) in kinds


def test_what_refuses_fails_closed_and_what_advises_does_not():
    actions = {
        one["spec"]["policyName"]: one["spec"]["validationActions"]
        for one in everything()
        if one["kind"] == "ValidatingAdmissionPolicyBinding"
    }
    for one in everything():
        if one["kind"] == "MutatingAdmissionPolicy":
            assert one["spec"]["failurePolicy"] == "Fail"
        elif one["kind"] == "ValidatingAdmissionPolicy":
            refuses = actions[one["metadata"]["name"]] == ["Deny"]
            assert one["spec"]["failurePolicy"] == ("Fail" if refuses else "Ignore")


def test_pods_without_sgx_meet_none_of_them():
    for one in everything():
        if POLICY_KINDS.fullmatch(one["kind"]):
            conditions = [condition["expression"] for condition in one["spec"]["matchConditions"]]
            assert ASKS_FOR_SGX in conditions
    assert all(dialect.resource in ASKS_FOR_SGX for dialect in DIALECTS)


def test_the_validating_half_keeps_to_the_cel_of_kubernetes_1_30():
    newer = re.compile(r"lists\.range|\.flatten\(|\.transform|\.format\(|jsonpatch|\.sort\(|\.distinct\(")
    assert not [found for one in expressions(validating_objects(SETTINGS)) if (found := newer.search(one))]


def test_no_expression_is_taken_for_a_template_by_helm():
    assert not [found for one in expressions(everything()) if (found := re.search(r"\{\{", one))]


def test_in_our_own_namespace_nobody_can_grant_the_provisioning_key():
    assert f"{NAMESPACE}/intruder" not in SETTINGS.allowed
    assert f"{NAMESPACE}/kubenclave-quote-helper" in SETTINGS.allowed


def test_the_exporter_writes_what_the_warning_reads():
    written = capacity_map(NAMESPACE, 1)
    policy, binding = (one["spec"] for one in validating_objects(SETTINGS)[-2:])
    assert binding["paramRef"].items() >= written["metadata"].items()
    (key,) = written["data"]
    assert any(f'"{key}"' in one for one in expressions(policy))


def test_expressions_of_many_lines_stay_readable():
    for policy in everything():
        text = to_yaml([policy])
        assert yaml.safe_load(text) == policy
        assert "\\n" not in text


def test_a_finding_is_a_sentence_of_cel():
    refusal = Refusal("admission.x", 'at most {most} of "{canonical}"', "next")
    made = cel.sentence(refusal, field="c.name", found='"much"', most="string(1)")
    assert made == (
        '"[admission.x] " + c.name + ": expected at most " + string(1) + " of \\"" + variables.canonical'
        ' + "\\", found " + "much" + " (next)"'
    )
