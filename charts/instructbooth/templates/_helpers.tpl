{{/* Name of the chart in labels. */}}
{{- define "instructbooth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of every name: the release's name, with the chart's unless it says it already. 40 characters leave room for suffixes. */}}
{{- define "instructbooth.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "instructbooth.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "instructbooth.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "instructbooth.operatorName" -}}{{ include "instructbooth.fullname" . }}-operator{{- end }}
{{- define "instructbooth.minioName" -}}{{ include "instructbooth.fullname" . }}-minio{{- end }}
{{- define "instructbooth.minioSecret" -}}{{ .Values.minio.existingSecret | default (include "instructbooth.minioName" .) }}{{- end }}

{{- define "instructbooth.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "instructbooth.operatorName" .) }}
{{- else -}}
{{ required "serviceAccount.name must name an existing ServiceAccount when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Labels of everything; call with (dict "root" $ "component" "operator"). */}}
{{- define "instructbooth.labels" -}}
{{ include "instructbooth.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with include "instructbooth.commonLabels" .root | fromYaml }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that never change, for selectors. */}}
{{- define "instructbooth.selector" -}}
app.kubernetes.io/name: {{ include "instructbooth.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* commonLabels, without those that are the chart's: selectors go by them. */}}
{{- define "instructbooth.commonLabels" -}}
{{ omit .Values.commonLabels "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" | toYaml }}
{{- end }}

{{/* repository:tag; call with (dict "image" .Values.x.image "default" .Chart.AppVersion). */}}
{{- define "instructbooth.image" -}}
{{ .image.repository }}:{{ .image.tag | default .default }}
{{- end }}

{{/* What the restricted pod security standard asks of a pod, and a user that owns nothing. */}}
{{- define "instructbooth.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "instructbooth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
