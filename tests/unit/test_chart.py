# SPDX-License-Identifier: Apache-2.0
"""The chart as a site renders it: documented, checked values; nothing above its rights; the same output every time."""

import importlib
import itertools
import json
import re
import subprocess
import tomllib

import pytest
import yaml

from tests.chart import CHART, NAMESPACE, VARIATIONS, Object, containers, helm, pods, render, template

pytestmark = pytest.mark.skipif(helm() is None, reason="Helm is not built: make cluster-tools")

SERVICES = ("attestation", "collateral")
TEMPLATES = sorted((CHART / "templates").rglob("*.yaml"))
CLUSTER_WIDE = {
    "ClusterRole", "ClusterRoleBinding", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration", "PriorityClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}  # fmt: skip


@pytest.fixture(scope="module", params=VARIATIONS)
def objects(request):
    return render(VARIATIONS[request.param])


def values():
    return yaml.safe_load((CHART / "values.yaml").read_text())


def leaves(tree, path=()):
    """Paths of the values a site can set; lists and maps of a site's own keys are one value."""
    if (
        isinstance(tree, dict)
        and tree
        and path[-1:] not in {("labels",), ("requests",), ("limits",), ("nodeSelector",)}
    ):
        return [leaf for key, inner in tree.items() for leaf in leaves(inner, (*path, key))]
    return [path]


# Values.


def test_every_value_is_described_where_it_stands():
    lines = (CHART / "values.yaml").read_text().splitlines()
    described = {
        match[1]
        for above, line in itertools.pairwise(lines)
        if (match := re.match(r"\s*(\w+):", line)) and above.lstrip().startswith("#")
    }
    names = {path[-1] if path[-1] not in {"requests", "limits"} else "resources" for path in leaves(values())}
    assert names - described == set()


def test_the_schema_knows_every_value_and_no_other():
    schema = json.loads((CHART / "values.schema.json").read_text())

    def paths(node, path=()):
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if "properties" not in node or (path[-1:] == ("image",) and len(path) > 1) or path[-1:] == ("resources",):
            return [path]
        assert node["additionalProperties"] is False, path
        return [leaf for key, inner in node["properties"].items() for leaf in paths(inner, (*path, key))]

    known = {path[:-1] if path[-1] in {"requests", "limits"} else path for path in leaves(values())}
    assert set(paths(schema)) == known


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"epcmode": "capacity"}, "epcmode"),
        ({"epcMode": "dra"}, "/epcMode"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"nodeAgent": {"image": {"name": "x"}}}, "/nodeAgent/image"),
        ({"webhook": {"replicas": 0}}, "/webhook/replicas"),
        ({"provision": {"allowed": [{"namespace": "a"}]}}, "serviceAccounts"),
        ({"provision": {"allowed": [{"namespace": 'a"', "serviceAccounts": ["b"]}]}}, "/provision/allowed/0/namespace"),
        ({"provision": {"allowed": [{"namespace": "a", "serviceAccounts": ["b: c"]}]}}, "/serviceAccounts/0"),
        ({"startupTaint": {"key": 'a" || true || "'}}, "/startupTaint/key"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(wrong, where):
    done = template({"admission": {"mode": "policies"}} | wrong)
    assert done.returncode != 0
    assert where in done.stderr


# Rendering.


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_template_is_one_object_and_depends_on_nothing_but_values_and_server(path):
    text = path.read_text()
    assert len(re.findall(r"^kind:", text, re.MULTILINE)) == 1
    assert "\n---" not in text
    assert re.findall(r"\b(lookup|rand\w+|now|genCA\w*|genSelfSigned\w*|genSignedCert\w*|uuidv4)\b.*}}", text) == []


@pytest.mark.parametrize("variation", VARIATIONS)
def test_rendering_twice_gives_the_same(variation):
    assert template(VARIATIONS[variation]).stdout == template(VARIATIONS[variation]).stdout


@pytest.mark.parametrize("variation", VARIATIONS)
def test_helm_lint_has_nothing_to_say(variation, tmp_path):
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(VARIATIONS[variation]))
    command = [str(helm()), "lint", "--strict", "--quiet", str(CHART), "--values", str(tmp_path / "values.yaml")]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


def test_auto_without_a_server_says_what_to_name():
    done = template({})
    assert done.returncode != 0
    assert "set admission.mode to policies" in done.stderr
    assert "--api-versions" in done.stderr


@pytest.mark.parametrize(
    ("kind", "mutating"),
    [
        ("MutatingAdmissionPolicy", "MutatingAdmissionPolicy"),
        ("ValidatingAdmissionPolicy", "MutatingWebhookConfiguration"),
    ],
)
def test_auto_goes_by_what_the_server_offers(kind, mutating):
    kinds = {found["kind"] for found in render({}, "--api-versions", f"admissionregistration.k8s.io/v1/{kind}")}
    assert kinds & {"MutatingAdmissionPolicy", "MutatingWebhookConfiguration"} == {mutating}
    assert "ValidatingAdmissionPolicy" in kinds


@pytest.mark.parametrize(("version", "good"), [("1.29.9", False), ("1.30.0", True), ("1.34.2-gke.1", True)])
def test_the_range_of_kubernetes_versions(version, good):
    done = template(VARIATIONS["webhook"], "--kube-version", version)
    assert (done.returncode == 0) == good
    assert good or "kubeVersion: >=1.30.0-0" in done.stderr


def test_the_chart_has_the_version_of_the_package():
    package = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == package.partition(".dev")[0]


def test_a_digest_goes_before_the_tag_and_a_component_before_all():
    digest = f"sha256:{'b' * 64}"
    one = {"image": {"repository": "r.example/k", "digest": digest}, "nodeAgent": {"image": {"tag": "next"}}}
    images = {name: containers(pod)[0]["image"] for name, pod in pods(render(VARIATIONS["policies"] | one))}
    assert images.pop("kubenclave-node-agent") == "r.example/k:next"
    assert set(images.values()) == {f"r.example/k@{digest}"}


# Objects.


def test_objects_say_whose_they_are(objects):
    for found in objects:
        labels = found["metadata"]["labels"]
        assert found["metadata"]["name"].startswith("kubenclave")
        assert labels["app.kubernetes.io/part-of"] == "kubenclave"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        namespace = None if found["kind"] in CLUSTER_WIDE else NAMESPACE
        if labels["app.kubernetes.io/component"] == "node-agent" and found["kind"] in {"Role", "RoleBinding"}:
            namespace = "default"  # where events about Nodes are
        assert found["metadata"].get("namespace") == namespace, found["metadata"]["name"]


def test_no_object_is_rendered_twice(objects):
    names = [(found["kind"], found["metadata"]["name"], found["metadata"].get("namespace")) for found in objects]
    assert len(names) == len(set(names))


def test_no_template_grants_more_than_its_part_needs(objects):
    for found in objects:
        for rule in found.get("rules", []):
            where = f"{found['kind']} {found['metadata']['name']}"
            assert "*" not in [*rule["verbs"], *rule.get("resources", []), *rule.get("apiGroups", [])], where
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), where
            if found["kind"] == "ClusterRole":
                assert not {"secrets", "serviceaccounts/token", "pods/exec"} & set(rule.get("resources", [])), where
            if "secrets" in rule.get("resources", []) and rule["verbs"] != ["create"]:
                assert rule.get("resourceNames"), f"{where}: which Secret?"


def test_no_pod_has_privileges_of_the_node(objects):
    for name, pod in pods(objects):
        spec = pod["spec"]
        assert not any(spec.get(member) for member in ("hostNetwork", "hostPID", "hostIPC")), name
        for container in containers(pod):
            security = container["securityContext"]
            assert not security.get("privileged"), name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert security.get("seccompProfile", spec.get("securityContext", {}).get("seccompProfile")), name
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                assert volume["hostPath"]["path"] not in {"/", "/etc", "/var", "/run", "/var/run", "/var/lib/kubelet"}


def test_pods_are_what_platform_engineers_expect(objects):
    for name, pod in pods(objects):
        spec = pod["spec"]
        if name != "kubenclave-cleanup":  # runs when the chart's own classes are gone
            assert spec["priorityClassName"], name
        assert spec["serviceAccountName"], name
        for container in containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            assert container["imagePullPolicy"], name


@pytest.mark.parametrize(
    "component", ["nodeAgent", "quoteHelper", "webhook", "exporter", "simulated", "attestation", "collateral"]
)
def test_what_a_site_sets_reaches_the_pods(component):
    names = {
        "nodeAgent": "kubenclave-node-agent",
        "quoteHelper": "kubenclave-quote-helper",
        "webhook": "kubenclave-webhook",
        "exporter": "kubenclave-exporter",
        "simulated": "kubenclave-simulator",
        "attestation": "kubenclave-attestation",
        "collateral": "kubenclave-collateral",
    }
    toleration = {"key": "dedicated", "operator": "Exists"}
    own: Object = {
        "image": {"repository": "r.example/other", "tag": "7", "pullPolicy": "Always"},
        "resources": {"requests": {"cpu": "11m", "memory": "99Mi"}, "limits": {"memory": "199Mi"}},
        "nodeSelector": {"pool": "x"},
        "tolerations": [toleration],
        "podAnnotations": {"note": "seen"},
        "podLabels": {"team": "t"},
    }
    site: Object = {
        "admission": {"mode": "webhook"},
        "imagePullSecrets": [{"name": "registry"}],
        "simulated": {"enabled": component == "simulated"},
    }
    service = {"enabled": True, "tls": {"secretName": "tls"}} if component in SERVICES else {}
    site[component] = site.get(component, {}) | own | service
    pod = dict(pods(render(site)))[names[component]]
    container = pod["spec"]["containers"][0]
    assert (container["image"], container["imagePullPolicy"]) == ("r.example/other:7", "Always")
    assert container["resources"]["requests"].items() >= own["resources"]["requests"].items()
    assert pod["spec"]["nodeSelector"].items() >= own["nodeSelector"].items()
    assert toleration in pod["spec"]["tolerations"]
    assert pod["metadata"]["annotations"]["note"] == "seen"
    assert pod["metadata"]["labels"]["team"] == "t"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_network_policies_go_by_ports_that_exist():
    objects = render(VARIATIONS["most"])
    ports = {port["name"] for _, pod in pods(objects) for each in containers(pod) for port in each.get("ports", [])}
    named = {
        port["port"]
        for found in objects
        if found["kind"] == "NetworkPolicy"
        for rule in found["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    assert named == {"metrics", "webhook", "issuer", "attestation", "collateral"}
    assert named <= ports


# Nodes and sizes.


def sizes():
    data = yaml.safe_load((CHART / "files/skus.yaml").read_text())
    return {size["name"]: size for series in data["series"].values() for size in series["sizes"]}


def test_the_node_agent_is_on_every_size_of_the_table_and_never_by_a_label_of_its_own():
    pod = dict(pods(render(VARIATIONS["policies"])))["kubenclave-node-agent"]
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [
        {each["key"]: each["values"] for each in term["matchExpressions"]} for term in required["nodeSelectorTerms"]
    ]
    assert all(term["kubernetes.io/os"] == ["linux"] for term in terms)
    keys = {key for term in terms for key in term}
    assert not keys & {"kubenclave.dev/sgx", "sgx.intel.com/capable", "intel.feature.node.kubernetes.io/sgx"}
    (types,) = [
        term["node.kubernetes.io/instance-type"] for term in terms if "node.kubernetes.io/instance-type" in term
    ]
    assert sorted(types) == sorted(sizes())


def test_sizes_are_data_of_templates_and_never_capacity():
    assert len(sizes()) == 20
    for path in TEMPLATES:
        assert "epcMiB" not in path.read_text()


def test_the_autoscaler_templates_in_the_guide_are_those_of_the_table():
    guide = (CHART.parents[1] / "docs/mixed-pools.md").read_text()
    epc = sizes()["Standard_DC4s_v3"]["epcMiB"] << 20
    assert f"resources_sgx.intel.com_epc` | `{epc}` |" in guide
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if "NodeOverlay" in text]
    overlay = yaml.safe_load(block)
    assert overlay["spec"]["requirements"][0]["values"] == ["Standard_DC4s_v3"]
    assert overlay["spec"]["capacity"]["sgx.intel.com/epc"] == str(epc)


# Services.


def service_pod(variation, name, **more):
    values = VARIATIONS[variation]
    return dict(pods(render(values | {name: values[name] | more})))[f"kubenclave-{name}"]["spec"]


def arguments(pod):
    return pod["containers"][0]["args"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_off_unless_asked_for(name):
    objects = render(VARIATIONS["policies"])
    assert [each for each in objects if each["metadata"]["name"] == f"kubenclave-{name}"] == []


def test_a_simulated_service_has_the_root_and_collateral_of_the_issuer_and_says_so():
    pod = service_pod("simulated", "attestation")
    assert {"--root=/simulated/root.pem", "--source=dir=/simulated", "--open"} <= set(arguments(pod))
    assert "--issuer=http://kubenclave-attestation.kubenclave.svc:8443/simulated" in arguments(pod)
    assert "--source=intel" not in arguments(pod)
    (mounted,) = [each["configMap"] for each in pod["volumes"] if "configMap" in each]
    assert mounted["name"] == "kubenclave-simulated-collateral"
    assert {each["key"] for each in mounted["items"]} == {"root.pem", "collateral.json"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_without_tls_speaks_plain_http_only_where_a_site_says_so(name):
    """Tokens of administrators and the key set, on which every relying party relies, would go over it."""
    policies = VARIATIONS["policies"]
    outcome = template({**policies, name: {"enabled": True}})
    assert outcome.returncode != 0
    assert "dangerouslyPlainHttp" in outcome.stderr
    said = dict(pods(render({**policies, name: {"enabled": True, "tls": {"dangerouslyPlainHttp": True}}})))
    assert "--dangerously-plain-http" in arguments(said[f"kubenclave-{name}"]["spec"])


def test_a_service_with_tls_speaks_no_plain_http_and_finds_its_secrets():
    pod = service_pod("services", "attestation")
    assert {"--tls-cert=/tls/tls.crt", "--client-ca=/client-ca/ca.crt", "--token-needed"} <= set(arguments(pod))
    assert {"--credentials=/credentials/credentials.json", "--keep-evidence=100", "--rate=10"} <= set(arguments(pod))
    assert not {"--dangerously-plain-http", "--with-collateral", "--open"} & set(arguments(pod))
    assert {"--signing-key=RS256=/keys/rs256.pem", "--signing-key=ES256=/keys/es256.pem"} <= set(arguments(pod))
    assert "--secrets-key=/secrets-key/secrets.key" in arguments(pod)
    secrets = {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    assert secrets == {"attest-tls", "clients", "tokens", "sealing"}
    (keys,) = [each["projected"] for each in pod["volumes"] if "projected" in each]
    assert {each["secret"]["name"] for each in keys["sources"]} == {"rsa", "ec"}
    mounted = {each["name"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}


def test_sources_of_collateral_are_asked_in_order_and_folders_can_be_mounted():
    pod = service_pod("services", "collateral")
    assert arguments(pod)[-3:] == ["--source=pccs=https://pccs.example:8081", "--source=intel", "--source=dir=/offline"]
    assert {"name": "offline", "configMap": {"name": "collateral"}} in pod["volumes"]
    assert {"name": "offline", "mountPath": "/offline"} in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("name", SERVICES)
def test_one_pod_at_a_time_has_the_databases_and_no_word_with_the_api_server(name):
    objects = render(VARIATIONS["services"])
    (deployment,) = [
        each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == f"kubenclave-{name}"
    ]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert deployment["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    (claim,) = [
        each
        for each in objects
        if each["kind"] == "PersistentVolumeClaim" and each["metadata"]["name"] == f"kubenclave-{name}"
    ]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_databases_lie_where_the_site_says():
    volumes = {each["name"]: each for each in service_pod("most", "collateral")["volumes"]}
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == "collateral"
    volumes = {each["name"]: each for each in service_pod("simulated", "attestation")["volumes"]}
    assert volumes["state"]["emptyDir"] == {"sizeLimit": "1Gi"}


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("variation", ["services", "most"])
def test_the_commands_know_every_argument_of_the_chart(name, variation):
    module = {"attestation": "attest", "collateral": "collateral"}[name]
    command = importlib.import_module(f"kubenclave.cli.{module}.serve").command
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    words = arguments(service_pod(variation, name))
    assert words[:2] == [module, "serve"]
    assert {word.partition("=")[0] for word in words[2:]} <= known
