{{/* What the attestation and the collateral service have alike: arguments, files and volumes. */}}

{{/* Issuer of tokens: attestation.issuer, or the address in the cluster; a SIMULATED one says so. */}}
{{- define "kubenclave.attestationIssuer" -}}
{{- $own := .Values.attestation -}}
{{- if $own.issuer -}}
{{ $own.issuer }}
{{- else -}}
{{ ternary "https" "http" (ne $own.tls.secretName "") }}://kubenclave-attestation.{{ .Release.Namespace }}.svc:8443{{ ternary "/simulated" "" .Values.simulated.enabled }}
{{- end -}}
{{- end }}

{{/* Arguments: (list $ .Values.COMPONENT). Without TLS of its own something in front has to do it, which a site says. */}}
{{- define "kubenclave.serviceArguments" -}}
{{- $root := index . 0 -}}
{{- $own := index . 1 -}}
{{- if $own.tls.secretName }}
- --tls-cert=/tls/tls.crt
- --tls-key=/tls/tls.key
{{- else if or $own.tls.dangerouslyPlainHttp $root.Values.simulated.enabled }}
- --dangerously-plain-http
{{- else }}
{{- fail "attestation.tls, collateral.tls: tokens and keys would go over plain HTTP. Set secretName, or dangerouslyPlainHttp where something in front does TLS (docs/services.md)" }}
{{- end }}
{{- if $own.tls.clientCaSecretName }}
- --client-ca=/client-ca/ca.crt
{{- end }}
{{- if $own.credentialsSecretName }}
- --credentials=/credentials/credentials.json
{{- end }}
{{- if $own.rate }}
- --rate={{ $own.rate }}
{{- end }}
{{- if $root.Values.simulated.enabled }}
- --root=/simulated/root.pem
- --source=dir=/simulated
{{- else }}
{{- range $own.sources }}
- --source={{ . }}
{{- end }}
{{- end }}
{{- range $own.extraArgs }}
- {{ . }}
{{- end }}
{{- end }}

{{/* Files of Secrets, and of the SIMULATED issuer: (list $ .Values.COMPONENT) */}}
{{- define "kubenclave.serviceMounts" -}}
{{- $own := index . 1 -}}
{{- if $own.tls.secretName }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- if $own.tls.clientCaSecretName }}
- {name: client-ca, mountPath: /client-ca, readOnly: true}
{{- end }}
{{- if $own.credentialsSecretName }}
- {name: credentials, mountPath: /credentials, readOnly: true}
{{- end }}
{{- if (index . 0).Values.simulated.enabled }}
- {name: simulated, mountPath: /simulated, readOnly: true}
{{- end }}
{{- with $own.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Volumes for these: (list $ .Values.COMPONENT). The issuer fills its ConfigMap when it has made its root. */}}
{{- define "kubenclave.serviceVolumes" -}}
{{- $own := index . 1 -}}
{{- with $own.tls.secretName }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with $own.tls.clientCaSecretName }}
- name: client-ca
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with $own.credentialsSecretName }}
- name: credentials
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if (index . 0).Values.simulated.enabled }}
- name: simulated
  configMap:
    name: kubenclave-simulated-collateral
    items:  # named, so that the pod waits until they are there
      - {key: root.pem, path: root.pem}
      - {key: collateral.json, path: collateral.json}
{{- end }}
{{- with $own.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
