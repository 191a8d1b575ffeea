# SPDX-License-Identifier: Apache-2.0
"""The policies as YAML, and as the templates of the Helm chart, which are checked in."""

from collections.abc import Iterable
from typing import Any, Final

import yaml

from kubenclave.cluster.policies.objects import Object, mutating_objects, validating_objects
from kubenclave.cluster.policies.settings import Settings

CHART_SETTINGS: Final = Settings(
    epc_mode="{{ toJson .Values.epcMode }}",
    enclave_without_epc="{{ toJson .Values.admission.enclaveWithoutEpc }}",
    allowed='{{ include "kubenclave.provisionAllowed" . }}',
    namespace="{{ .Release.Namespace }}",
    labels={"labels": "of the chart"},
)
"""The settings as Helm fills them in."""

_HEADER: Final = (
    "{{- /* Written by tools/generate_policies.py out of kubenclave.cluster.admission: do not edit. */ -}}\n"
)
_MUTATING: Final = ('{{- if eq (include "kubenclave.admissionMode" .) "policies" }}\n', "{{- end }}\n")
_LABELS: Final = "  labels:\n    labels: of the chart\n"
_CHART_LABELS: Final = '  labels:\n    {{- include "kubenclave.labels" (list $ "admission") | nindent 4 }}\n'


class _Dumper(yaml.SafeDumper):
    """Expressions of several lines stand as they are, and nothing is abbreviated."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def to_yaml(objects: Iterable[Object]) -> str:
    """Return a stream of YAML documents."""
    options: dict[str, Any] = {"sort_keys": False, "width": 1 << 20, "allow_unicode": True}
    return "---\n".join(yaml.dump(one, Dumper=_Dumper, **options) for one in objects)


def chart_files() -> dict[str, str]:
    """Return the chart's templates by file name, one object each; the mutating half only in mode ``policies``."""
    files = {}
    for objects, (before, after) in (
        (mutating_objects(CHART_SETTINGS), _MUTATING),
        (validating_objects(CHART_SETTINGS), ("", "")),
    ):
        for one in objects:
            name = one["metadata"]["name"].removeprefix("kubenclave-")
            part = "binding" if one["kind"].endswith("Binding") else "policy"
            document = to_yaml([one]).replace(_LABELS, _CHART_LABELS)
            files[f"{name}-{part}.yaml"] = f"{_HEADER}{before}{document}{after}"
    return files
