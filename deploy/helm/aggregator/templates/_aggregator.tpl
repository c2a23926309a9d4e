{{- /* What an install must not leave open, one a line. */}}
{{- define "aggregator.problems" -}}
{{- if not .Values.publicAddress }}
publicAddress: host:port that silos dial
{{- end }}
{{- end }}

{{- define "aggregator.certificate" -}}
dnsNames:
  {{- toYaml (concat (list (.Values.publicAddress | splitList ":" | first)) .Values.tls.certManager.dnsNames | uniq) | nindent 2 }}
usages: [digital signature, server auth]
{{- end }}
