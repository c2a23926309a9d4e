{{- /* What an install must not leave open, one a line. */}}
{{- define "silo-agent.problems" -}}
{{- if not .Values.silo }}
silo: the silo's name, as in its invitation
{{- end }}
{{- if not .Values.aggregator.host }}
aggregator.host: the host to dial
{{- end }}
{{- if not .Values.calibration.existingClaim }}
calibration.existingClaim: the volume with this silo's text
{{- end }}
{{- if not .Values.policy.models }}
policy.models: digests of the models that this silo trusts, or any
{{- end }}
{{- if .Values.identity.signingKey.existingSecret }}
{{- if not (include "sparsilo.tlsSecret" .) }}
tls: existingSecret or certManager; only identity.enrolment makes a certificate
{{- end }}
{{- else if not .Values.identity.enrolment.existingSecret }}
identity: enrolment.existingSecret (an invitation) or signingKey.existingSecret
{{- else if not .Values.identity.enrolment.fingerprint }}
identity.enrolment.fingerprint: the invitation's, told to you over another channel
{{- end }}
{{- if and .Values.tls.authority.existingConfigMap (not (include "sparsilo.tlsSecret" .)) }}
tls.authority: goes with existingSecret or certManager; an enrolled silo trusts its invitation's authority
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.extraEgress) }}
{{- if include "silo-agent.proxied" . }}
{{- if not .Values.proxy.cidrs }}
proxy.cidrs: the proxy's addresses; a NetworkPolicy knows no names
{{- end }}
{{- else if not (or .Values.aggregator.cidrs .Values.networkPolicy.cilium.enabled) }}
aggregator.cidrs: the aggregator's addresses; a NetworkPolicy knows no names (with Cilium: networkPolicy.cilium.enabled)
{{- end }}
{{- end }}
{{- end }}

{{- define "silo-agent.proxied" -}}
{{- if or .Values.proxy.existingSecret (not (eq .Values.proxy.url "none")) }}yes{{ end }}
{{- end }}

{{- define "silo-agent.certificate" -}}
commonName: {{ .Values.silo }}
usages: [digital signature, client auth]
{{- end }}

{{- /* Folder that enrolment writes keys and certificates to. */}}
{{- define "silo-agent.identity" -}}/var/lib/sparsilo/identity{{- end }}

{{- /* Of the aggregator's certificate. */}}
{{- define "silo-agent.authority" -}}
{{- if not (include "sparsilo.tlsSecret" .) -}}
{{ include "silo-agent.identity" . }}/ca.crt
{{- else if .Values.tls.authority.existingConfigMap -}}
/run/secrets/sparsilo/authority/ca.crt
{{- else -}}
/run/secrets/sparsilo/tls/ca.crt
{{- end }}
{{- end }}

{{- define "silo-agent.calibration" -}}
{{ clean (printf "/data/%s" .Values.calibration.path) }}
{{- end }}

{{- /* What enrolment and the agent both need; the text and the model are the agent's alone. */}}
{{- define "silo-agent.networkMounts" -}}
- {name: state, mountPath: /var/lib/sparsilo}
- {name: tmp, mountPath: /tmp}
{{- include "sparsilo.tlsMounts" . }}
{{- if .Values.proxy.existingSecret }}
- {name: proxy, mountPath: /run/secrets/sparsilo/proxy, readOnly: true}
{{- end }}
{{- end }}
