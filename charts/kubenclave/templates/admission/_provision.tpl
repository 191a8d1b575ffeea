{{/*
Who may have the provisioning key, as a list in CEL of "namespace/service account": $
In our own namespace that is the quote helper and nobody else, whatever the values say.
*/}}
{{- define "kubenclave.provisionAllowed" -}}
{{- $allowed := list (printf "%s/kubenclave-quote-helper" .Release.Namespace) -}}
{{- range $grant := .Values.provision.allowed -}}
{{- if ne $grant.namespace $.Release.Namespace -}}
{{- range $account := $grant.serviceAccounts -}}
{{- $allowed = append $allowed (printf "%s/%s" $grant.namespace $account) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $allowed | uniq | sortAlpha | toJson -}}
{{- end }}
