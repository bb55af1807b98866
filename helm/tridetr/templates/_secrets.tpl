{{/*
Refuse values that contain a password: they would be readable in the ConfigMap. The rules are those of
clients/tridetr/config/source.py and node_sections.py; no message repeats a value.
*/}}

{{/* A text with its percent-encoded characters decoded. */}}
{{- define "tridetr.decoded" -}}
{{- $text := . -}}
{{- range $code := untilStep 33 127 1 -}}
{{- if ne $code 37 -}}{{- /* %25 would be decoded twice. */ -}}
{{- $char := printf "%c" $code -}}
{{- $text = $text | replace (printf "%%%02X" $code) $char | replace (printf "%%%02x" $code) $char -}}
{{- end -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* Every `name=value` of a path or query whose name is that of a secret, as a JSON list. */}}
{{- define "tridetr.secretParameters" -}}
{{- $name := "(?:pass|pwd|psw|secret|token|credential|api_?key|(?:^|[^a-z])pw|(?:^|[^a-z])auth)[a-z_-]{0,64}" -}}
{{- regexFindAll (printf "(?i)(?:%s|pas)=[^&;/?#]*" $name) . -1 | default list | toJson -}}
{{- end -}}

{{/* Context {key, source}. */}}
{{- define "tridetr.checkSource" -}}
{{- $remedy := "write `user:password` to the key `credentials` of a Secret, set credentialsSecret to its name, and write {user} and {password} where the URL needs them (not needed for user:password@host)" -}}
{{- $scheme := printf "%s: a URL must begin with rtsp://, rtsps://, http:// or https://; if it contains a password, %s" .key $remedy -}}
{{- if contains "://" .source -}}
{{- if not (regexMatch "^(?i:rtsps?|https?)://" .source) -}}{{- fail $scheme -}}{{- end -}}
{{- $rest := regexReplaceAll "^(?s:.*?)://" .source "" -}}
{{- $address := regexFind "^[^/?#]*" $rest -}}
{{- $path := trimPrefix $address $rest -}}
{{- $host := regexReplaceAll "^(?s:.*)@" $address "" -}}
{{- $login := trimSuffix "@" (trimSuffix $host $address) -}}
{{- $password := regexReplaceAll "^[^:]*:?" (include "tridetr.decoded" $login) "" -}}
{{- if and $password (ne $password "{password}") -}}
{{- fail (printf "%s: the URL contains a password: %s" .key $remedy) -}}
{{- end -}}
{{- range $parameter := include "tridetr.decoded" $path | include "tridetr.secretParameters" | fromJsonArray -}}
{{- $value := regexReplaceAll "^[^=]+=" (trimPrefix "=" $parameter) "" -}}
{{- if not (or (has $value (list "" "0" "1" "true" "false" "yes" "no")) (hasPrefix "{password}" $value)) -}}
{{- fail (printf "%s: the URL seems to contain a password in its path or query: %s" $.key $remedy) -}}
{{- end -}}
{{- end -}}
{{- if or (contains "@" $path) (regexMatch "\\s" .source) (not (regexMatch "^(\\[[0-9A-Fa-f:.%]+\\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?$" $host)) -}}
{{- fail (printf "%s: not a valid URL (host and port, such as rtsp://192.0.2.17:554/1; percent-encode a blank as %%20 and an @ as %%40); if it contains a password, %s" .key $remedy) -}}
{{- end -}}
{{- else if or (hasPrefix "//" .source) (not (regexMatch "^[/.~]" .source)) -}}
{{- if or (regexMatch "(?i)^(?:rtsps?|https?|rtmp|udp|tcp):|:[^/:@]*@" .source) (ne (include "tridetr.secretParameters" .source) "[]") -}}
{{- fail $scheme -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Context {root, node}. */}}
{{- define "tridetr.checkSecrets" -}}
{{- $values := .root.Values -}}
{{- range $name, $camera := .node.cameras -}}
{{- range $key := list "source" "view" -}}
{{- with get $camera $key -}}
{{- include "tridetr.checkSource" (dict "key" (printf "cameras.%s.%s" $name $key) "source" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $key, $endpoint := dict "tracing.endpoint" $values.tracing.endpoint "tracing.collector.endpoint" $values.tracing.collector.endpoint -}}
{{- if regexMatch "[@?]" ($endpoint | default "") -}}
{{- fail (printf "%s: write the URL without user, password or query: set tracing.collector.endpoint, and tracing.collector.headersSecret to a Secret with the header `authorization`" $key) -}}
{{- end -}}
{{- end -}}
{{- if regexMatch "[@/]" ($values.mqtt.host | default "") -}}
{{- fail "mqtt.host: write only the broker's host name or address; its port, user and password belong in mqtt.port, mqtt.username and mqtt.passwordSecret, and mqtt.tls turns TLS on" -}}
{{- end -}}
{{- with dig "triton" "url" "" $values.config -}}
{{- if and (not (hasPrefix "unix:" .)) (regexMatch "[@/]" .) -}}
{{- fail "config.triton.url: write host:port of the server's gRPC port, without a scheme or user" -}}
{{- end -}}
{{- end -}}
{{- end -}}
