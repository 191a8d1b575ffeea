# SPDX-License-Identifier: Apache-2.0
"""Manifests: one Pod in, programs out; what cannot be had on one machine is refused or remarked."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.admission import admit
from kubenclave.errors import FormatError, KubenclaveError, UsageError
from kubenclave.local import manifest

EXAMPLES = Path(__file__).parents[2] / "examples"


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


def test_both_dialects_are_admitted_to_the_same_thing():
    azure, intel = (
        admit(manifest.from_yaml((EXAMPLES / f"pod-{name}.yaml").read_bytes())) for name in ("azure", "intel")
    )
    assert azure.asks == intel.asks
    ours, theirs = azure.pod["spec"], intel.pod["spec"]
    assert "volumes" not in ours
    assert ours["containers"][0]["env"] == theirs["containers"][0]["env"]
    assert ours["containers"][0].keys() == theirs["containers"][0].keys()


def test_a_command_becomes_the_pod_somebody_would_have_written():
    made = manifest.from_command(["/opt/My App", "-x"], epc=64 << 20, quote=True, provision=True, env={"A": "b"})
    admitted = admit(made, provision_granted=True)
    assert made["metadata"]["name"] == "my-app"
    assert (admitted.epc, admitted.asks[0].provision) == (64 << 20, 1)
    assert manifest.programs(admitted.pod)[0] == manifest.Program(
        "my-app", ("/opt/My App", "-x"), {"A": "b", "SGX_AESM_ADDR": "1"}
    )


def test_a_command_without_epc_asks_for_nothing():
    assert not admit(manifest.from_command(["/"], epc=None)).asks[0].sgx


@given(word=st.text(alphabet="$()A", max_size=8))
def test_a_command_runs_exactly_as_it_was_typed(word):
    made = manifest.from_command([word, word], epc=None, env={"A": "x", "B": word})
    (program,) = manifest.programs(made)
    assert program.argv == (word, word)
    assert program.env["B"] == word


def test_command_args_and_variables_expand_as_in_a_kubelet():
    container = {
        "name": "a",
        "command": ["echo", "$(GREETING), $(NOBODY) $$(GREETING)"],
        "args": ["$(BOTH)"],
        "workingDir": "/srv",
        "env": [
            {"name": "GREETING", "value": "hi"},
            {"name": "BOTH", "value": "$(GREETING) $(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "EMPTY"},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "SPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
    }
    (program,) = manifest.programs(pod(container))
    assert program.argv == ("echo", "hi, $(NOBODY) $(GREETING)", "hi $(LATER)")
    assert program.env == {
        "GREETING": "hi",
        "BOTH": "hi $(LATER)",
        "LATER": "x",
        "EMPTY": "",
        "POD": "p",
        "SPACE": "default",
    }
    assert program.cwd == "/srv"


@pytest.mark.parametrize(
    ("container", "code"),
    [
        ({"name": "a"}, "run.no-command"),
        ({"name": "a", "args": ["x"]}, "run.no-command"),
        ({"name": "a", "command": ["x"], "envFrom": [{}]}, "run.unsupported"),
        ({"name": "a", "command": ["x"], "env": [{"name": "A", "valueFrom": {"secretKeyRef": {}}}]}, "run.unsupported"),
    ],
)
def test_what_needs_a_cluster_is_refused(container, code):
    with pytest.raises(UsageError) as caught:
        manifest.programs(pod(container))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "container",
    [
        {"command": ["x"]},
        {"name": 1, "command": ["x"]},
        {"name": "a", "command": "x"},
        {"name": "a", "command": [1]},
        {"name": "a", "command": ["x"], "env": ["A=b"]},
        {"name": "a", "command": ["x"], "env": {"A": "b"}},
        {"name": "a", "command": ["x"], "env": [{"name": "A", "value": 1}]},
        {"name": "a", "command": ["x"], "env": [{"name": "A=B"}]},
        {"name": "a", "command": ["x"], "workingDir": 1},
        {"name": "a", "command": ["x"], "workingDir": "/a\0b"},
        {"name": "a", "command": ["x"], "env": [{"name": "A", "value": "a\0b"}]},
    ],
)
def test_wrong_shapes_are_format_errors(container):
    with pytest.raises(FormatError) as caught:
        manifest.programs(pod(container))
    assert caught.value.code == "manifest.shape"


def test_names_have_to_differ():
    with pytest.raises(FormatError):
        manifest.programs(pod({"name": "a", "command": ["x"]}, {"name": "a", "command": ["x"]}))


def test_what_has_no_effect_here_is_remarked():
    odd = {"name": "a", "image": "i", "volumeMounts": [{}], "livenessProbe": {}}
    assert len(list(manifest.remarks(pod(odd)))) == 4
    assert not list(manifest.remarks(pod({"name": "a"}, restartPolicy="Never")))
    (remark,) = manifest.remarks(pod({"name": "a"}, restartPolicy="Never", ephemeralContainers=[{"name": "b"}]))
    assert "ephemeral" in remark


def test_the_grace_is_the_pods_within_bounds():
    assert manifest.grace(pod()) == 10.0
    assert manifest.grace(pod(terminationGracePeriodSeconds=3)) == 3.0
    assert manifest.grace(pod(terminationGracePeriodSeconds=9999)) == 60.0
    with pytest.raises(FormatError):
        manifest.grace(pod(terminationGracePeriodSeconds="3"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "manifest.kind"),
        (b"kind: Deployment", "manifest.kind"),
        (b"kind: Pod\n---\nkind: Pod", "manifest.kind"),
        (b"- Pod", "manifest.kind"),
        (b"a: [", "manifest.yaml"),
        (b"a: &x [1]\nb: *x", "manifest.yaml"),
        (b"a: !!bool maybe", "manifest.yaml"),
        (b"a: !!timestamp never", "manifest.yaml"),
        (b"a: !!float ''", "manifest.yaml"),
        (b"\xff\xfe\xff", "manifest.yaml"),
        (b"kind: Pod\nkind: Pod", "manifest.yaml"),
        (b"kind: Pod\nspec: {null: a}", "manifest.yaml"),
        (b"kind: Pod\nspec: {on: a}", "manifest.yaml"),
        (b"kind: Pod\nspec: {a: '\\ud800'}".replace(b"'", b'"'), "manifest.yaml"),
        (b"!!python/object/apply:os.system [ls]", "manifest.yaml"),
        (b" " * (manifest.MAX_MANIFEST + 1), "manifest.size"),
    ],
)
def test_what_is_not_one_pod_is_refused(text, code):
    with pytest.raises(FormatError) as caught:
        manifest.from_yaml(text)
    assert caught.value.code == code


def test_empty_documents_around_the_pod_do_not_matter():
    assert manifest.from_yaml(b"---\nkind: Pod\nspec: {}\n---\n") == {"kind": "Pod", "spec": {}}


@given(st.text(max_size=200) | st.sampled_from(["{" * 5000, "- " * 3000, "? " * 3000]))
def test_garbage_is_a_format_error(text):
    try:
        found = manifest.from_yaml(text.encode())
    except FormatError:
        return
    assert found["kind"] == "Pod"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "value", "valueFrom", "fieldRef", "fieldPath"]), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(["name", "command", "args", "env", "envFrom", "workingDir", "resources", "volumeMounts"])


@given(container=st.dictionaries(keys, json_like, max_size=5))
def test_whatever_a_container_holds_it_is_run_or_refused(container):
    try:
        (program,) = manifest.programs(admit(pod(container)).pod)
    except KubenclaveError:
        return
    assert program.argv
