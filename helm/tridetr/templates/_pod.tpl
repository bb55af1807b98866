{{/* The pod of one camera node: context {root, node}. */}}

{{- define "tridetr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* One container that keeps one process alive: context {root, name, process, image, startSeconds, gpu}. */}}
{{- define "tridetr.processContainer" -}}
name: {{ .name }}
image: {{ include "tridetr.image" (dict "root" .root "image" .image) }}
imagePullPolicy: {{ .image.pullPolicy }}
args: [up, --config, /etc/tridetr/node/tridetr.yaml, --only, {{ .process | quote }}]
securityContext:
  {{- include "tridetr.containerSecurity" . | nindent 2 }}
env:
  - {name: HOME, value: /tmp}
  {{- if and (eq .name "controller") .root.Values.notify.timeZone }}
  - {name: TZ, value: {{ .root.Values.notify.timeZone | quote }}}
  {{- end }}
  {{- if .root.Values.daemonSet.enabled }}
  - name: TRIDETR_MQTT_DEVICE
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- end }}
  {{- if .gpu }}
  {{- include "tridetr.gpuEnvironment" (dict "root" .root "owner" (eq .name "triton")) | nindent 2 }}
  {{- end }}
  {{- if and (eq .name "triton") .gpu .root.Values.gpu.engineCache.enabled }}
  - {name: TRIDETR_ENGINES, value: /var/cache/tridetr}
  {{- end }}
startupProbe:
  exec: {command: [python3, -m, tridetr.probe, {{ .process | quote }}, --run-dir, /run/tridetr, --ready]}
  periodSeconds: 3
  timeoutSeconds: 5
  failureThreshold: {{ div (.startSeconds | default 90) 3 }}
livenessProbe:
  exec: {command: [python3, -m, tridetr.probe, {{ .process | quote }}, --run-dir, /run/tridetr]}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/*
What the NVIDIA runtime asks containers for: context {root, owner}. The owner is given its GPU by the device plugin;
the gpu process must see the same one, since it lends its memory to Triton, and cannot ask the plugin for a second share.
*/}}
{{- define "tridetr.gpuEnvironment" -}}
{{- if not (and .owner .root.Values.gpu.resource) }}
- {name: NVIDIA_VISIBLE_DEVICES, value: {{ .root.Values.gpu.visibleDevices | quote }}}
{{- end }}
- {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility,video"}
{{- end -}}

{{- define "tridetr.commonMounts" -}}
- {name: shm, mountPath: /dev/shm}
- {name: run, mountPath: /run/tridetr}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/tridetr/node, readOnly: true}
{{- range .root.Values.files }}
- {name: file-{{ .name }}, mountPath: /etc/tridetr/files/{{ .name }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "tridetr.pod" -}}
{{- $root := .root -}}
{{- $node := .node -}}
{{- $values := .root.Values -}}
{{- $gpu := eq (include "tridetr.gpu" .) "true" -}}
metadata:
  labels:
    {{- include "tridetr.labels" . | nindent 4 }}
  annotations:
    checksum/config: {{ include "tridetr.config" . | sha256sum }}
    {{- if $values.monitoring.annotations }}
    prometheus.io/scrape: "true"
    prometheus.io/port: "8080"
    prometheus.io/path: /metrics
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  {{- if $gpu }}
  {{- with $values.gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  # Triton opens the GPU memory of the gpu process, for which CUDA needs a common PID namespace.
  shareProcessNamespace: true
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $node.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.images.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ $values.security.runAsUser }}
    runAsGroup: {{ $values.security.runAsGroup }}
    fsGroup: {{ $values.security.runAsGroup }}
    {{- with $values.security.supplementalGroups }}
    supplementalGroups: {{ toJson . }}
    {{- end }}
    seccompProfile: {type: RuntimeDefault}
  {{- if and $gpu $values.gpu.engineCache.enabled (eq (include "tridetr.model" $root) "rfdetr_trt") }}
  initContainers:
    - name: build-engine
      image: {{ include "tridetr.image" (dict "root" $root "image" $values.images.tritonGpu) }}
      imagePullPolicy: {{ $values.images.tritonGpu.pullPolicy }}
      args: [models, build-engine, --config, /etc/tridetr/node/tridetr.yaml]
      securityContext:
        {{- include "tridetr.containerSecurity" . | nindent 8 }}
      env:
        - {name: HOME, value: /tmp}
        - {name: TRIDETR_ENGINES, value: /var/cache/tridetr}
        {{- include "tridetr.gpuEnvironment" (dict "root" $root "owner" true) | nindent 8 }}
      resources:
        requests: {cpu: "1", memory: 1Gi}
        limits:
          memory: 6Gi
          {{- with $values.gpu.resource }}
          {{ . }}: 1
          {{- end }}
      volumeMounts:
        - {name: engines, mountPath: /var/cache/tridetr}
        - {name: config, mountPath: /etc/tridetr/node, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        {{- range $values.files }}
        - {name: file-{{ .name }}, mountPath: /etc/tridetr/files/{{ .name }}, readOnly: true}
        {{- end }}
  {{- end }}
  containers:
    {{- $image := ternary $values.images.tritonGpu $values.images.tritonCpu $gpu }}
    - {{- include "tridetr.processContainer" (dict "root" $root "name" "triton" "process" "triton" "image" $image "startSeconds" 300 "gpu" $gpu) | nindent 6 }}
      readinessProbe:
        exec: {command: [python3, -m, tridetr.probe, triton, --run-dir, /run/tridetr, --ready]}
        periodSeconds: 10
        timeoutSeconds: 5
      resources:
        {{- $limits := deepCopy ($values.resources.triton.limits | default dict) }}
        {{- if and $gpu $values.gpu.resource }}{{- $limits = set $limits $values.gpu.resource 1 }}{{- end }}
        {{- toYaml (dict "requests" $values.resources.triton.requests "limits" $limits) | nindent 8 }}
      volumeMounts:
        {{- include "tridetr.commonMounts" . | nindent 8 }}
        {{- if and $gpu $values.gpu.engineCache.enabled }}
        - {name: engines, mountPath: /var/cache/tridetr}
        {{- end }}
    {{- if $gpu }}
    {{- /* It needs the GPU libraries of Triton's image. */}}
    - {{- include "tridetr.processContainer" (dict "root" $root "name" "gpu" "process" "gpu" "image" $image "gpu" $gpu) | nindent 6 }}
      resources:
        {{- toYaml $values.resources.gpu | nindent 8 }}
      volumeMounts:
        {{- include "tridetr.commonMounts" . | nindent 8 }}
    {{- end }}
    {{- range $name, $camera := $node.cameras }}
    {{- $ringMiB := include "tridetr.ringMiB" (dict "root" $root "camera" $camera) | int }}
    {{- $v4l2 := eq (include "tridetr.isDevice" $camera) "true" }}
    - {{- include "tridetr.processContainer" (dict "root" $root "name" (printf "capture-%s" ($name | replace "_" "-")) "process" (printf "capture %s" $name) "image" $values.images.client) | nindent 6 }}
      resources:
        requests:
          {{- toYaml $values.resources.capture.requests | nindent 10 }}
        limits:
          # Capture touches the pages of the rings first, so they are charged to it: two generations while the size changes.
          memory: {{ add (mul 2 $ringMiB) (int $values.resources.capture.workingSetMiB) }}Mi
          {{- if and $v4l2 (eq $values.devices.mode "plugin") }}
          {{ $values.devices.resource }}: 1
          {{- end }}
      volumeMounts:
        {{- include "tridetr.commonMounts" $ | nindent 8 }}
        {{- if $camera.credentialsSecret }}
        - {name: credentials-{{ $name | replace "_" "-" }}, mountPath: /etc/tridetr/cameras/{{ $name }}, readOnly: true}
        {{- end }}
        {{- if and $v4l2 (eq $values.devices.mode "hostPath") }}
        - {name: device-{{ $name | replace "_" "-" }}, mountPath: {{ $camera.source }}}
        {{- end }}
    {{- end }}
    - {{- include "tridetr.processContainer" (dict "root" $root "name" "detector" "process" "detector" "image" $values.images.client) | nindent 6 }}
      resources:
        {{- toYaml $values.resources.detector | nindent 8 }}
      volumeMounts:
        {{- include "tridetr.commonMounts" . | nindent 8 }}
    - {{- include "tridetr.processContainer" (dict "root" $root "name" "controller" "process" "controller" "image" $values.images.client) | nindent 6 }}
      resources:
        {{- toYaml $values.resources.controller | nindent 8 }}
      volumeMounts:
        {{- include "tridetr.commonMounts" . | nindent 8 }}
        - {name: state, mountPath: /var/lib/tridetr}
        {{- if $values.mqtt.passwordSecret }}
        - {name: mqtt, mountPath: /etc/tridetr/mqtt, readOnly: true}
        {{- end }}
        {{- if and $values.mqtt.tls.enabled $values.mqtt.tls.secret }}
        - {name: mqtt-tls, mountPath: /etc/tridetr/mqtt-tls, readOnly: true}
        {{- end }}
        {{- if $values.notify.secret }}
        - {name: notify, mountPath: /etc/tridetr/notify, readOnly: true}
        {{- end }}
    - {{- include "tridetr.processContainer" (dict "root" $root "name" "gateway" "process" "gateway" "image" $values.images.client) | nindent 6 }}
      ports:
        - {name: http, containerPort: 8080}
      readinessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
      resources:
        {{- toYaml $values.resources.gateway | nindent 8 }}
      volumeMounts:
        {{- include "tridetr.commonMounts" . | nindent 8 }}
        - {name: state, mountPath: /var/lib/tridetr}
        {{- if $values.gateway.tokenSecret }}
        - {name: gateway-token, mountPath: /etc/tridetr/gateway, readOnly: true}
        {{- end }}
    {{- if eq (include "tridetr.evidence" $root) "true" }}
    - {{- include "tridetr.processContainer" (dict "root" $root "name" "recorder" "process" "recorder" "image" $values.images.client) | nindent 6 }}
      resources:
        {{- toYaml $values.resources.recorder | nindent 8 }}
      volumeMounts:
        {{- include "tridetr.commonMounts" . | nindent 8 }}
        - {name: state, mountPath: /var/lib/tridetr}
    {{- end }}
  volumes:
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ include "tridetr.shmMiB" . }}Mi}
    - name: run
      # Mostly empty; on a CPU it needs space for a copy of the model and its compiled form.
      emptyDir: {medium: Memory, sizeLimit: 1Gi}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: config
      configMap: {name: {{ include "tridetr.name" . }}, defaultMode: 0444}
    - name: state
      {{- if eq $values.state.type "pvc" }}
      persistentVolumeClaim: {claimName: {{ include "tridetr.name" . }}-state}
      {{- else if eq $values.state.type "hostPath" }}
      # Must exist: a folder that the kubelet creates belongs to root, but the containers run as another user.
      hostPath: {path: {{ $values.state.hostPath }}/{{ $node.name }}, type: Directory}
      {{- else }}
      emptyDir: {}
      {{- end }}
    {{- if and $gpu $values.gpu.engineCache.enabled }}
    - name: engines
      {{- if eq (include "tridetr.enginesOnHost" $root) "true" }}
      hostPath: {path: {{ $values.gpu.engineCache.hostPath }}, type: Directory}
      {{- else }}
      persistentVolumeClaim: {claimName: {{ include "tridetr.name" . }}-engines}
      {{- end }}
    {{- end }}
    {{- range $name, $camera := $node.cameras }}
    {{- if $camera.credentialsSecret }}
    - name: credentials-{{ $name | replace "_" "-" }}
      secret: {secretName: {{ $camera.credentialsSecret }}, defaultMode: 0440}
    {{- end }}
    {{- if and (eq (include "tridetr.isDevice" $camera) "true") (eq $values.devices.mode "hostPath") }}
    - name: device-{{ $name | replace "_" "-" }}
      hostPath: {path: {{ $camera.source }}, type: CharDevice}
    {{- end }}
    {{- end }}
    {{- range $values.files }}
    - {{ set (omit . "name") "name" (printf "file-%s" .name) | toYaml | nindent 6 | trim }}
    {{- end }}
    {{- if $values.mqtt.passwordSecret }}
    - name: mqtt
      secret: {secretName: {{ $values.mqtt.passwordSecret }}, defaultMode: 0440}
    {{- end }}
    {{- if and $values.mqtt.tls.enabled $values.mqtt.tls.secret }}
    - name: mqtt-tls
      secret: {secretName: {{ $values.mqtt.tls.secret }}, defaultMode: 0440}
    {{- end }}
    {{- if $values.notify.secret }}
    - name: notify
      secret: {secretName: {{ $values.notify.secret }}, defaultMode: 0440}
    {{- end }}
    {{- if $values.gateway.tokenSecret }}
    - name: gateway-token
      secret: {secretName: {{ $values.gateway.tokenSecret }}, defaultMode: 0440}
    {{- end }}
{{- end -}}
