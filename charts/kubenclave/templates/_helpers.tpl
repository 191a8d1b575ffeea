{{/*
Shared by all templates. Names are fixed, not derived from the release: EPC is one ledger for the whole cluster, so a
second release must collide with the first instead of counting the same bytes again.

Helpers that need more than the root take a list: (list $ "node-agent"), (list $ .Values.nodeAgent).
*/}}

{{/* Labels of every object: (list $ component) */}}
{{- define "kubenclave.labels" -}}
{{- $root := index . 0 -}}
{{ include "kubenclave.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kubenclave
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that select a component's pods, and never change: (list $ component) */}}
{{- define "kubenclave.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: kubenclave
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Image reference: (list $ .Values.COMPONENT.image). What the component names goes before .Values.image. */}}
{{- define "kubenclave.image" -}}
{{- $root := index . 0 -}}
{{- $image := merge (dict) (index . 1 | default dict) (omit $root.Values.image "tag" "digest") -}}
{{- $own := index . 1 | default dict -}}
{{- $digest := $own.digest | default (ternary "" $root.Values.image.digest (or (hasKey $own "tag") (hasKey $own "repository"))) -}}
{{- if $digest -}}
{{ $image.repository }}@{{ $digest }}
{{- else -}}
{{ $image.repository }}:{{ $own.tag | default $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Pull policy: (list $ .Values.COMPONENT.image) */}}
{{- define "kubenclave.imagePullPolicy" -}}
{{- (index . 1 | default dict).pullPolicy | default (index . 0).Values.image.pullPolicy -}}
{{- end }}

{{/* Pull secrets of a pod, nothing when there are none: $ */}}
{{- define "kubenclave.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
{{ toYaml . }}
{{- end -}}
{{- end }}

{{/*
"policies" or "webhook": what changes pods at admission. auto goes by what the server offers. Rendering without a server
has to say which server it is for: Helm's built-in list of APIs then has no kinds, so that a guess would be silent.
*/}}
{{- define "kubenclave.admissionMode" -}}
{{- $mode := .Values.admission.mode -}}
{{- if ne $mode "auto" -}}
{{ $mode }}
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
policies
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" -}}
webhook
{{- else -}}
{{- fail "admission.mode is auto, but no server was asked: set admission.mode to policies (Kubernetes 1.36 or newer) or webhook (older), or pass --api-versions admissionregistration.k8s.io/v1/MutatingAdmissionPolicy or --api-versions admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" -}}
{{- end -}}
{{- end }}

{{/* Names of all Azure sizes with SGX, from files/skus.yaml, as a JSON list: $ */}}
{{- define "kubenclave.instanceTypes" -}}
{{- $names := list -}}
{{- range (.Files.Get "files/skus.yaml" | fromYaml).series -}}
{{- range .sizes -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}

{{/*
Affinity of the node agent (and of whatever has to be where it is): nodeAgent.affinity when that is set, else nodes that
somebody declared or discovered as SGX nodes. Labels which the agent sets itself are not among them: it takes them away
when SGX is gone, and would take itself away with them. On the SIMULATED platform every Linux node will do.
*/}}
{{- define "kubenclave.nodeAffinity" -}}
{{- if .Values.nodeAgent.affinity -}}
{{ toYaml .Values.nodeAgent.affinity }}
{{- else if .Values.simulated.enabled -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: kubernetes.io/os, operator: In, values: [linux]}
{{- else -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: kubernetes.io/os, operator: In, values: [linux]}
          - {key: kubenclave.dev/sgx-node, operator: In, values: ["true"]}
      - matchExpressions:
          - {key: kubernetes.io/os, operator: In, values: [linux]}
          - {key: feature.node.kubernetes.io/cpu-security.sgx.enabled, operator: In, values: ["true"]}
      - matchExpressions:
          - {key: kubernetes.io/os, operator: In, values: [linux]}
          - {key: node.kubernetes.io/instance-type, operator: In, values: {{ include "kubenclave.instanceTypes" . }}}
{{- end -}}
{{- end }}

{{/* Node selector of the node agent: its own, or that of the SIMULATED platform: $ */}}
{{- define "kubenclave.nodeSelector" -}}
{{- toYaml (ternary .Values.simulated.nodeSelector .Values.nodeAgent.nodeSelector .Values.simulated.enabled) -}}
{{- end }}

{{/*
Tolerations of a node component, (list $ .Values.COMPONENT): its own list, or nodeAgent's when it is null; and always
the startup taint, which nobody else can take away.
*/}}
{{- define "kubenclave.tolerations" -}}
{{- $root := index . 0 -}}
{{- $own := (index . 1).tolerations -}}
{{- $list := ternary $root.Values.nodeAgent.tolerations $own (kindIs "invalid" $own) -}}
{{- toYaml (append $list (dict "key" $root.Values.startupTaint.key "operator" "Exists" "effect" "NoSchedule")) -}}
{{- end }}

{{/* Spread of the replicas of a Deployment over nodes and zones: (list $ component .Values.COMPONENT) */}}
{{- define "kubenclave.topologySpread" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $own := (index . 2).topologySpreadConstraints -}}
{{- if kindIs "invalid" $own -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- topologyKey: {{ $key }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "kubenclave.selectorLabels" (list $root $component) | nindent 6 }}
{{- end -}}
{{- else -}}
{{ toYaml $own }}
{{- end -}}
{{- end }}

{{/* Where the pods of a Deployment may run, as its values say: .Values.COMPONENT */}}
{{- define "kubenclave.placement" -}}
{{- $own := . -}}
{{- range $key := list "nodeSelector" "affinity" "tolerations" }}
{{- with index $own $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Annotations of what runs last, when a release is uninstalled: the weight, by which the Job comes after its rights */}}
{{- define "kubenclave.cleanupHook" -}}
helm.sh/hook: post-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Priority class of a kind of pods: (list $ "node") or (list $ "cluster") */}}
{{- define "kubenclave.priorityClassName" -}}
{{- (index (index . 0).Values.priorityClass (index . 1)).name -}}
{{- end }}

{{/* securityContext of a pod that needs no root */}}
{{- define "kubenclave.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* securityContext of every container of ours */}}
{{- define "kubenclave.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
