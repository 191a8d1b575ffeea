# SPDX-License-Identifier: Apache-2.0
"""The policies as objects of the API ``admissionregistration.k8s.io/v1``, each with its binding."""

from collections.abc import Iterable
from typing import Any, Final

from kubenclave.cluster.admission.table import CAPACITY_CONFIG, QUOTE_PROVIDER
from kubenclave.cluster.policies import cel, mutating, validating
from kubenclave.cluster.policies.settings import Settings
from kubenclave.sgx.epc import PROVISION_RESOURCE

Object = dict[str, Any]

API_VERSION: Final = "admissionregistration.k8s.io/v1"

_DENY: Final = ["Deny"]
_ADVISE: Final = ["Warn", "Audit"]
_PODS: Final = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
_MAY_PROVIDE: Final = f"""
{cel.asks_for([PROVISION_RESOURCE]).strip()} ||
{cel.text(QUOTE_PROVIDER)} in {cel.ANNOTATIONS}
""".lstrip()


def mutating_objects(settings: Settings) -> list[Object]:
    """Return the mutating half, for Kubernetes >= 1.36: a policy and its binding.

    It leaves our own namespace alone, whose pods need no mutation, so that it cannot lock itself out.
    """
    spec = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": {
            "resourceRules": [_PODS],
            "namespaceSelector": {
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [settings.namespace]}
                ]
            },
        },
        "matchConditions": [_asks_for_sgx()],
        "variables": _variables(mutating.variables(settings)),
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": mutating.patch()}}],
    }
    return [
        _object("MutatingAdmissionPolicy", "kubenclave-mutate", spec, settings),
        _object("MutatingAdmissionPolicyBinding", "kubenclave-mutate", {"policyName": "kubenclave-mutate"}, settings),
    ]


def validating_objects(settings: Settings) -> list[Object]:
    """Return the validating half, for Kubernetes >= 1.30: policies in all namespaces, each with its binding."""
    holders = 'variables.holders.map(c, c.name).join(",")'
    audit = f'size(variables.holders) == 0 ? "" : {holders} + (variables.granted ? ": granted" : ": refused")'
    parameter = {
        "paramRef": {
            "name": CAPACITY_CONFIG,
            "namespace": settings.namespace,
            "parameterNotFoundAction": "Allow",
        }
    }
    return [
        *_policy(settings, "kubenclave-validate", validating.rules(settings)),
        *_policy(
            settings,
            "kubenclave-provision",
            validating.provision(settings),
            conditions=[_asks_for_sgx(), {"name": "may-provide-quotes", "expression": _MAY_PROVIDE}],
            auditAnnotations=[{"key": "provision", "valueExpression": audit}],
        ),
        *_policy(settings, "kubenclave-advise", validating.advice(settings), actions=_ADVISE),
        *_policy(
            settings,
            "kubenclave-capacity",
            validating.capacity(settings),
            actions=_ADVISE,
            binding=parameter,
            paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        ),
    ]


def _policy(
    settings: Settings,
    name: str,
    variables: dict[str, str],
    *,
    actions: list[str] = _DENY,
    conditions: Iterable[Object] = (),
    binding: Object | None = None,
    **more: Any,
) -> Iterable[Object]:
    """Yield a validating policy and its binding: what is in ``variables.findings`` is the one message, every reason.

    Advice is nothing to fail for.
    """
    message = 'variables.findings.join("; ")'
    spec = {
        "failurePolicy": "Fail" if actions is _DENY else "Ignore",
        **more,
        "matchConstraints": {"resourceRules": [_PODS]},
        "matchConditions": [*conditions] or [_asks_for_sgx()],
        "variables": _variables(variables),
        "validations": [{"expression": "size(variables.findings) == 0", "messageExpression": message}],
    }
    yield _object("ValidatingAdmissionPolicy", name, spec, settings)
    bound = {"policyName": name, "validationActions": actions, **(binding or {})}
    yield _object("ValidatingAdmissionPolicyBinding", name, bound, settings)


def _asks_for_sgx() -> Object:
    return {"name": "asks-for-sgx", "expression": cel.ASKS_FOR_SGX}


def _variables(expressions: dict[str, str]) -> list[Object]:
    return [{"name": name, "expression": expression} for name, expression in expressions.items()]


def _object(kind: str, name: str, spec: Object, settings: Settings) -> Object:
    metadata = {"name": name, "labels": settings.labels}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
