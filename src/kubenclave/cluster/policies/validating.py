# SPDX-License-Identifier: Apache-2.0
"""The validating half of admission as policies, in the CEL of Kubernetes 1.30: no ``lists.range``, no flattening.

It says the same codes and words as ``admit`` of what it refuses. What the API server refuses by itself, after the
mutating half and before this one, is left to it: amounts that are no whole number, requests that differ from limits
or stand alone, extended resources of ephemeral containers and of whole pods.
"""

from typing import Final

from kubenclave.cluster.admission import table
from kubenclave.cluster.policies import cel
from kubenclave.cluster.policies.settings import Settings
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, PROVISION_RESOURCE

_EVERY: Final = f"{cel.INIT_CONTAINERS} + {cel.CONTAINERS}"
_DEVICE: Final = f"{cel.names(table.DEVICES)}.filter(r, {cel.positive('r')})"
_PROVISION: Final = cel.text(PROVISION_RESOURCE)
_ENCLAVE: Final = cel.text(ENCLAVE_RESOURCE)


def shared(settings: Settings) -> dict[str, str]:
    """Return the variables of every validating policy."""
    return {**cel.table(settings.epc_mode), "containers": cel.asked(_EVERY)}


def rules(settings: Settings) -> dict[str, str]:
    """Return ``findings``, a list of texts, of what no pod may ask for, with the variables it needs."""
    unchecked = cel.sentence(table.NODE_UNCHECKED, field='"pod: nodeName"', found='object.spec.nodeName + " alone"')
    return {
        **shared(settings),
        "sized": cel.lines(f"""
            variables.containers.map(c, {{
              "name": c.name, "limits": c.limits,
              "named": dyn({cel.NAMED}),
              "bad": dyn({cel.NAMED}.filter(r, !({cel.SENSIBLE}))),
              "good": dyn({cel.NAMED}.filter(r, {cel.SENSIBLE}))
            }})
        """),
        "findings": cel.lines(f"""
            variables.sized.map(c, (
              c.bad.map(r, {_of(table.EPC_AMOUNT, "r", "string(c.limits[r])", most="string(variables.most[r])")}) +
              (c.good.map(r, {cel.BYTES}).exists(b, c.good.exists(r, {cel.BYTES} != b)) ? [
                {_of(table.DIALECTS_DISAGREE, "string(c.good[0])", _meanings())}
              ] :
              size(c.bad) > 0 ? [] :
              c.named.exists(r, r != variables.canonical) ? [
                {_of(table.UNTRANSLATED, "string(c.named.filter(r, r != variables.canonical)[0])", '"that alone"')}
              ] :
              size(c.named) > 0 && !({_ENCLAVE} in c.limits) ? [
                {_of(table.ENCLAVE_MISSING, _ENCLAVE, '"none, as if the mutating half of admission had not run"')}
              ] :
              size(c.named) > 0 && quantity(c.limits[{_ENCLAVE}]).compareTo(quantity("0")) == 0 ? [
                {_of(table.ENCLAVE_MISSING, _ENCLAVE, '"0"')}
              ] :
              {settings.enclave_without_epc} == "refuse" && size(c.named) == 0 && size({_DEVICE}) > 0 ? [
                {_of(table.EPC_MISSING, f"{_DEVICE}[0]", '"none"')}
              ] : [])
            ).join("; ")).filter(m, m != "") +
            ({cel.UNCHECKED} && variables.sized.exists(c, {cel.ASKS}) ? [{unchecked}] : [])
        """),
    }


def provision(settings: Settings) -> dict[str, str]:
    """Return ``findings`` about the provisioning key, and ``holders``, the containers that would get it."""
    by_annotation = f"!({_PROVISION} in c.limits) && size({cel.NAMED}) > 0 && {cel.PROVIDES}"
    by_name = cel.positive(_PROVISION)
    found = f'"not granted" + ({by_annotation} ? "; asked for by annotation {table.QUOTE_PROVIDER}" : "")'
    return {
        **shared(settings),
        "granted": settings.granted,
        "holders": f"variables.containers.filter(c, ({by_name}) || ({by_annotation}))",
        "findings": cel.lines(f"""
            variables.granted ? [] : variables.holders.map(c,
              {_of(table.PROVISION_REFUSED, _PROVISION, found)}
            )
        """),
    }


def advice(settings: Settings) -> dict[str, str]:
    """Return ``findings`` that are no reason to refuse."""
    uncounted = f'{settings.enclave_without_epc} == "warn" && size({cel.NAMED}) == 0 && size({_DEVICE}) > 0'
    known = f'variables.provider in ["", {cel.text(table.AESMD)}] || ({_EVERY}).exists(c, c.name == variables.provider)'
    return {
        **shared(settings),
        "findings": cel.lines(f"""
            variables.containers.filter(c, {uncounted}).map(c,
              "container " + c.name + ": " + {_DEVICE}[0] + {cel.text(f": {table.UNCOUNTED}")}
            ) +
            ({known} ? [] : [{cel.text(table.UNKNOWN_PROVIDER)} + variables.provider])
        """),
    }


def capacity(settings: Settings) -> dict[str, str]:
    """Return ``findings`` about a pod whose EPC no node has.

    Counted from below: an init container alone, without the sidecars before it.
    """
    message = cel.sentence(
        table.EXCEEDS_NODES, field='"pod"', found="string(variables.total)", most="string(variables.largest)"
    )
    return {
        **cel.table(settings.epc_mode),
        "together": cel.lines(f"""
            {cel.CONTAINERS}.map(c, {cel.SIZE}).sum() +
            {cel.INIT_CONTAINERS}.filter(c, {cel.SIDECAR}).map(c, {cel.SIZE}).sum()
        """),
        "total": f"({cel.INIT_CONTAINERS}.map(c, {cel.SIZE}) + [variables.together]).max()",
        "largest": f'int(params.?data[?"{table.LARGEST_KEY}"].orValue("0"))',
        "findings": f"variables.largest > 0 && variables.total > variables.largest ? [{message}] : []",
    }


def _of(refusal: table.Refusal, resource: str, found: str, *, most: str = '""') -> str:
    """Return the expression of a finding about ``resource``, an expression, of container ``c``."""
    return cel.sentence(refusal, field=f'"container " + c.name + ": " + {resource}', found=found, most=most)


def _meanings() -> str:
    return f'c.good.map(r, r + " meaning " + string({cel.BYTES})).join(", ")'
