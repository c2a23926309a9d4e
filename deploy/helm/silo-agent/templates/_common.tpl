{{- /* What both charts share. This file is the same in aggregator and silo-agent; a test compares them. */}}

{{- define "sparsilo.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* 52, not 63: a StatefulSet's name gets a hash of 11 in its pods' labels. */}}
{{- define "sparsilo.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "sparsilo.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sparsilo.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Chart.Name }}
{{- end }}

{{- define "sparsilo.testLabels" -}}
app.kubernetes.io/name: {{ include "sparsilo.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{- define "sparsilo.labels" -}}
{{- $own := dict
      "app.kubernetes.io/version" .Chart.AppVersion
      "app.kubernetes.io/part-of" "sparsilo"
      "app.kubernetes.io/managed-by" .Release.Service
      "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- toYaml (merge (include "sparsilo.selectorLabels" . | fromYaml) $own .Values.commonLabels) }}
{{- end }}

{{- /* Of a dict with root and, if wanted, name or its suffix, labels, annotations. */}}
{{- define "sparsilo.metadata" -}}
name: {{ .name | default (print (include "sparsilo.fullname" .root) (.suffix | default "")) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- toYaml (merge (dict) (.labels | default dict) (include "sparsilo.labels" .root | fromYaml)) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sparsilo.image" -}}
{{- $image := .Values.image }}
{{- with .Values.global.imageRegistry | default $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- with $image.digest }}@{{ . }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "sparsilo.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "sparsilo.fullname" .) "default") }}
{{- end }}

{{- define "sparsilo.stateClaim" -}}
{{- .Values.state.existingClaim | default (printf "%s-state" (include "sparsilo.fullname" .)) }}
{{- end }}

{{- /* Secret with tls.crt, tls.key and ca.crt; empty where the identity is one that the software made itself. */}}
{{- define "sparsilo.tlsSecret" -}}
{{- $made := .Values.tls.certManager.enabled | ternary (printf "%s-tls" (include "sparsilo.fullname" .)) "" }}
{{- .Values.tls.existingSecret | default $made }}
{{- end }}

{{- /* Folder of the model inside the container, or its hub id. */}}
{{- define "sparsilo.model" -}}
{{- .Values.model.hub | default (clean (printf "/models/%s" .Values.model.path)) }}
{{- end }}

{{- define "sparsilo.env" -}}
- name: HOME
  value: /tmp
{{- if .Values.model.hub }}
- name: HF_HOME
  value: /var/lib/sparsilo/hub
{{- else }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- end }}

{{- /* The part of a pod's spec that the workload and the test share. */}}
{{- define "sparsilo.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- if not (kindIs "invalid" .Values.hostUsers) }}
hostUsers: {{ .Values.hostUsers }}
{{- end }}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{- define "sparsilo.scheduling" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $gpu := (.Values.gpu | default dict) }}
{{- with $gpu.enabled | default false | ternary (concat .Values.tolerations ($gpu.tolerations | default list)) .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sparsilo.podAnnotations" -}}
{{- $own := dict "checksum/config" (include (print .Template.BasePath "/configmap.yaml") . | sha256sum) }}
{{- if .Values.metrics.scrapeAnnotations }}
{{- $own = merge $own (dict "prometheus.io/scrape" "true" "prometheus.io/port" "9464" "prometheus.io/path" "/metrics") }}
{{- end }}
{{- toYaml (merge $own .Values.podAnnotations .Values.commonAnnotations) }}
{{- end }}

{{- /* Plain HTTP: the kubelet has no client certificate, so it cannot probe the gRPC port. */}}
{{- define "sparsilo.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: metrics}
  {{- toYaml .Values.probes.startup | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
{{- end }}

{{- /* Where the own certificate and a trusted one come from. */}}
{{- define "sparsilo.tlsVolumes" -}}
{{- with include "sparsilo.tlsSecret" . }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .Values.tls.authority.existingConfigMap }}
- name: authority
  configMap:
    name: {{ . }}
    items:
      - {key: {{ $.Values.tls.authority.key | quote }}, path: ca.crt}
{{- end }}
{{- end }}

{{- define "sparsilo.tlsMounts" -}}
{{- if include "sparsilo.tlsSecret" . }}
- {name: tls, mountPath: /run/secrets/sparsilo/tls, readOnly: true}
{{- end }}
{{- if .Values.tls.authority.existingConfigMap }}
- {name: authority, mountPath: /run/secrets/sparsilo/authority, readOnly: true}
{{- end }}
{{- end }}

{{- /* Further ones, in the chart's security context where they have none. */}}
{{- define "sparsilo.initContainers" -}}
{{- range .Values.initContainers }}
- {{- toYaml (merge (dict) . (dict "securityContext" $.Values.securityContext)) | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sparsilo.endpoint" -}}
port: metrics
path: /metrics
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sparsilo.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns.to | nindent 4 }}
  ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{- define "sparsilo.metricsIngress" -}}
- from:
    - namespaceSelector:
        matchLabels:
          {{- toYaml .Values.networkPolicy.metricsNamespaceLabels | nindent 10 }}
    - podSelector:
        matchLabels:
          {{- include "sparsilo.testLabels" . | nindent 10 }}
  ports:
    - {protocol: TCP, port: 9464}
{{- end }}

{{- /* Stops an install whose values leave something open; `helm lint` passes all the same. */}}
{{- define "sparsilo.validate" -}}
{{- $problems := include (print .Chart.Name ".problems") . | trim | splitList "\n" | compact }}
{{- if not (or .Values.image.registry .Values.global.imageRegistry) }}
{{- $problems = append $problems "image.registry: where you pushed the image; none is published" }}
{{- end }}
{{- if not (or .Values.model.existingClaim .Values.model.hub) }}
{{- $problems = append $problems "model: existingClaim (a volume with the dense model) or hub (its hub id)" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled }}
{{- $problems = append $problems "metrics: serviceMonitor and podMonitor would scrape twice; enable one" }}
{{- end }}
{{- with $problems }}
{{- fail (printf "\n\nThe values leave open:\n  - %s\n" (join "\n  - " .)) }}
{{- end }}
{{- end }}
