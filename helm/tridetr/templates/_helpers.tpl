{{/* Names, labels, and the arithmetic of shared memory. */}}

{{- define "tridetr.name" -}}
{{- printf "%s-%s" .root.Release.Name .node.name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Rejects names that Kubernetes or a node would refuse, and names that two objects would share: context {root, nodes}. */}}
{{- define "tridetr.checkNames" -}}
{{- $own := dict -}}
{{- range list "broker" "collector" "jaeger" "tridetr-dashboard" -}}
{{- $own = set $own (printf "%s-%s" $.root.Release.Name .) . -}}
{{- end -}}
{{- $owners := dict -}}
{{- range $node := .nodes -}}
{{- $name := include "tridetr.name" (dict "root" $.root "node" $node) -}}
{{- $owner := get $owners $name -}}
{{- if hasKey $own $name -}}
{{- fail (printf "nodes: %s: %s is the name of the chart's own %s; use another name for the node" $node.name $name (get $own $name)) -}}
{{- else if eq $owner $node.name -}}
{{- fail (printf "nodes: two have the name %s; give each its own name" $node.name) -}}
{{- else if $owner -}}
{{- fail (printf "nodes: %s and %s: the objects of both would be named %s, because names are cut to 50 characters; use a shorter release name, or names that differ earlier" $owner $node.name $name) -}}
{{- end -}}
{{- $owners = set $owners $name $node.name -}}
{{- $containers := dict -}}
{{- range $camera, $_ := $node.cameras -}}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?$" $camera) -}}
{{- /* A URL in place of a name may contain a password. */ -}}
{{- $shown := ternary $camera "…" (regexMatch "^[A-Za-z0-9_. -]{1,64}$" $camera) -}}
{{- fail (printf "cameras: %s: use lower-case letters, digits, '_' and '-' (at most 32), with a letter or digit at both ends" $shown) -}}
{{- else if regexMatch "^triton(-|$)" $camera -}}
{{- fail (printf "cameras: %s: the name triton and names that begin with triton- are reserved for Triton's memory; use another" $camera) -}}
{{- end -}}
{{- $container := printf "capture-%s" ($camera | replace "_" "-") -}}
{{- with get $containers $container -}}
{{- fail (printf "cameras.%s and cameras.%s: the containers of both would be named %s; rename one" . $camera $container) -}}
{{- end -}}
{{- $containers = set $containers $container $camera -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where a camera's source is a device file (tridetr.config.source has the same rule). */}}
{{- define "tridetr.isDevice" -}}
{{- and (hasPrefix "/dev/" .source) (not (hasPrefix "/dev/shm/" .source)) -}}
{{- end -}}

{{- define "tridetr.labels" -}}
app.kubernetes.io/name: tridetr
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{ include "tridetr.selector" . }}
{{- end -}}

{{- define "tridetr.selector" -}}
tridetr/release: {{ .root.Release.Name }}
tridetr/node: {{ .node.name }}
{{- end -}}

{{- define "tridetr.collectorLabels" -}}
{app.kubernetes.io/name: tridetr-collector, app.kubernetes.io/instance: {{ .Release.Name | quote }}}
{{- end -}}

{{- define "tridetr.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{/* "true" where the node has a GPU. */}}
{{- define "tridetr.gpu" -}}
{{- if kindIs "bool" .node.gpu -}}{{ .node.gpu }}{{- else -}}{{ .root.Values.gpu.enabled }}{{- end -}}
{{- end -}}

{{/* The model's entry: of the common configuration, since all nodes share it. */}}
{{- define "tridetr.model" -}}
{{- dig "model" "name" "rfdetr_ort" .Values.config -}}
{{- end -}}

{{/* "true" where engines are kept in a folder of the host: a DaemonSet's pods cannot share one claim. */}}
{{- define "tridetr.enginesOnHost" -}}
{{- or (eq .Values.gpu.engineCache.type "hostPath") .Values.daemonSet.enabled -}}
{{- end -}}

{{/* MiB of one generation of a camera's rings, and of the node's /dev/shm: the arithmetic of clients/tridetr/config/memory.py. */}}
{{- define "tridetr.ringMiB" -}}
{{- $width := .camera.width | default .root.Values.shm.assumedWidth | int -}}
{{- $height := .camera.height | default .root.Values.shm.assumedHeight | int -}}
{{- $slots := .camera.slots | default 6 | int -}}
{{- $packets := 0 -}}
{{- if ne (toString .camera.source) "synthetic" -}}
{{- $packets = (.root.Values.config.packets | default dict).max_mib | default 24 | int -}}
{{- end -}}
{{- if .camera.view -}}
{{- $packets = mul 2 $packets -}}
{{- end -}}
{{- add (div (mul $slots $width $height 3) 1048576) $packets 2 -}}
{{- end -}}

{{- define "tridetr.shmMiB" -}}
{{- $total := int .root.Values.shm.slackMiB -}}
{{- range .node.cameras -}}
{{- $total = add $total (mul 2 (include "tridetr.ringMiB" (dict "root" $.root "camera" .) | int)) -}}
{{- end -}}
{{- $total -}}
{{- end -}}

{{/* MiB of a node's state, as in memory.py: evidence, a quarter of it for a clip that is being written, and all else. */}}
{{- define "tridetr.stateMiB" -}}
{{- $evidence := 0 -}}
{{- if eq (include "tridetr.evidence" .) "true" -}}
{{- $evidence = mulf (.Values.config.evidence.max_mib | default 2048) 1.25 | ceil | int -}}
{{- end -}}
{{- add 256 $evidence -}}
{{- end -}}

{{/*
Rejects a file that no container would find: context {root, key, path}, and optionally `also`, a folder in addition to `files`,
and `secret`: the path is not shown, since the secret itself may have been written in its place.
*/}}
{{- define "tridetr.mounted" -}}
{{- $found := and .also (hasPrefix (print .also "/") .path) -}}
{{- range .root.Values.files -}}
{{- if hasPrefix (printf "/etc/tridetr/files/%s/" .name) $.path -}}{{- $found = true -}}{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "%s: %s is not in a volume of the pod; add its volume to `files` and write the path as /etc/tridetr/files/NAME/…" .key (ternary "its path" .path (eq .secret true))) -}}
{{- end -}}
{{- end -}}

{{- define "tridetr.checkFiles" -}}
{{- $config := .root.Values.config -}}
{{- range $name, $camera := .node.cameras -}}
{{- with $camera.tls_ca_file -}}
{{- include "tridetr.mounted" (dict "root" $.root "key" (printf "cameras.%s.tls_ca_file" $name) "path" .) -}}
{{- end -}}
{{- $source := toString $camera.source -}}
{{- if not (or (eq $source "synthetic") (contains "://" $source) (eq (include "tridetr.isDevice" $camera) "true")) -}}
{{- include "tridetr.mounted" (dict "root" $.root "key" (printf "cameras.%s.source" $name) "path" $source) -}}
{{- end -}}
{{- end -}}
{{- with dig "model" "file" "" $config -}}
{{- include "tridetr.mounted" (dict "root" $.root "key" "config.model.file" "path" .) -}}
{{- end -}}
{{- with dig "triton" "secret_file" "" $config -}}
{{- include "tridetr.mounted" (dict "root" $.root "key" "config.triton.secret_file" "path" . "secret" true) -}}
{{- end -}}
{{- $notify := ternary "/etc/tridetr/notify" "" (ne .root.Values.notify.secret "") -}}
{{- range $target := $config.notify -}}
{{- range $key := list "url_file" "secret_file" -}}
{{- with get $target $key -}}
{{- include "tridetr.mounted" (dict "root" $.root "key" (printf "config.notify %s: %s" $target.name $key) "path" . "also" $notify "secret" true) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with ($config.evidence | default dict).path -}}
{{- if not (hasPrefix "/var/lib/tridetr/" .) -}}
{{- fail (printf "config.evidence.path: %s is not in the volume of the state; set a folder in /var/lib/tridetr" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tridetr.brokerHost" -}}
{{- if .root.Values.mqtt.host -}}{{ .root.Values.mqtt.host }}
{{- else if .root.Values.broker.enabled -}}{{ .root.Release.Name }}-broker
{{- else -}}{{ fail "mqtt.host is empty and broker.enabled is false: set mqtt.host, or enable the chart's broker" }}
{{- end -}}
{{- end -}}

{{- define "tridetr.otelEndpoint" -}}
{{- if .root.Values.tracing.endpoint -}}{{ .root.Values.tracing.endpoint }}
{{- else if .root.Values.tracing.collector.enabled -}}http://{{ .root.Release.Name }}-collector:4318
{{- else if .root.Values.tracing.jaeger.enabled -}}http://{{ .root.Release.Name }}-jaeger:4318
{{- end -}}
{{- end -}}

{{/* "true" where the configuration keeps pictures or clips of visits. */}}
{{- define "tridetr.evidence" -}}
{{- $evidence := .Values.config.evidence -}}
{{- /* An empty section means the defaults; without the section, nothing is kept. */ -}}
{{- if kindIs "map" $evidence -}}{{ or (dig "pictures" true $evidence) (dig "clips" true $evidence) }}{{- end -}}
{{- end -}}

{{/* The configuration file of a node: exactly the keys that the clients know. */}}
{{- define "tridetr.config" -}}
{{- include "tridetr.checkSecrets" . -}}
{{- include "tridetr.checkFiles" . -}}
{{- $values := .root.Values -}}
{{- $cameras := dict -}}
{{- range $name, $camera := .node.cameras -}}
{{- $cameras = set $cameras $name (omit $camera "credentialsSecret") -}}
{{- if $camera.credentialsSecret -}}
{{- $file := printf "/etc/tridetr/cameras/%s/credentials" $name -}}
{{- $cameras = set $cameras $name (merge (dict "credentials_file" $file) (get $cameras $name)) -}}
{{- end -}}
{{- end -}}
{{- $mqtt := dict "host" (include "tridetr.brokerHost" .) "port" (int $values.mqtt.port) "prefix" $values.mqtt.prefix -}}
{{- /* The pods of a DaemonSet have one configuration; TRIDETR_MQTT_DEVICE names them. */ -}}
{{- if not $values.daemonSet.enabled -}}{{- $mqtt = set $mqtt "device" .node.name -}}{{- end -}}
{{- $mqtt = set $mqtt "discovery_prefix" ($values.mqtt.discoveryPrefix | default nil) -}}
{{- if $values.mqtt.pictures -}}{{- $mqtt = set $mqtt "pictures" true -}}{{- end -}}
{{- if $values.mqtt.username -}}{{- $mqtt = set $mqtt "username" $values.mqtt.username -}}{{- end -}}
{{- if $values.mqtt.passwordSecret -}}{{- $mqtt = set $mqtt "password_file" "/etc/tridetr/mqtt/password" -}}{{- end -}}
{{- if $values.mqtt.tls.enabled -}}
{{- $tls := dict -}}
{{- if $values.mqtt.tls.secret -}}{{- $tls = set $tls "ca_file" "/etc/tridetr/mqtt-tls/ca.crt" -}}{{- end -}}
{{- if $values.mqtt.tls.clientCertificate -}}
{{- $tls = set (set $tls "cert_file" "/etc/tridetr/mqtt-tls/tls.crt") "key_file" "/etc/tridetr/mqtt-tls/tls.key" -}}
{{- end -}}
{{- $mqtt = set $mqtt "tls" $tls -}}
{{- end -}}
{{- $origins := $values.gateway.allowedOrigins -}}
{{- if $values.gateway.ingress.enabled -}}
{{- /* The gateway only answers requests for host names that it knows. */ -}}
{{- $scheme := ternary "https" "http" (ne $values.gateway.ingress.tlsSecret "") -}}
{{- $host := $values.gateway.ingress.host | replace "{node}" .node.name -}}
{{- $origins = append $origins (printf "%s://%s" $scheme $host) -}}
{{- end -}}
{{- $gateway := dict "host" "0.0.0.0" "port" 8080 "max_viewers" (int $values.gateway.maxViewers) "allowed_origins" $origins -}}
{{- if $values.gateway.tokenSecret -}}{{- $gateway = set $gateway "token_file" "/etc/tridetr/gateway/token" -}}{{- end -}}
{{- with $values.gateway.trustedProxies -}}{{- $gateway = set $gateway "trusted_proxies" . -}}{{- end -}}
{{- with $values.gateway.frameAncestors -}}{{- $gateway = set $gateway "frame_ancestors" . -}}{{- end -}}
{{- $endpoint := include "tridetr.otelEndpoint" . -}}
{{- $otel := dict "endpoint" ($endpoint | default nil) "sample_ratio" $values.tracing.sampleRatio -}}
{{- $config := deepCopy $values.config -}}
{{- $config = merge $config (dict "instance" $values.instance "cameras" $cameras "mqtt" $mqtt "gateway" $gateway "otel" $otel) -}}
{{- $config = merge $config (dict "run_dir" "/run/tridetr" "state_dir" "/var/lib/tridetr") -}}
{{- $device := ternary "auto" "cpu" (eq (include "tridetr.gpu" .) "true") -}}
{{- $config = merge $config (dict "device" $device) -}}
{{ toYaml $config }}
{{- end -}}
