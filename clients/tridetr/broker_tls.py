"""TLS to the MQTT broker: the files of ``mqtt.tls``."""

from __future__ import annotations

import ssl

from tridetr.config.node_sections import TlsSection
from tridetr.config.secrets import read_secret
from tridetr.errors import ConfigError
from tridetr.files import read_text


def broker_context(tls: TlsSection) -> ssl.SSLContext:
    """Return the TLS settings of connections to the broker.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust_authorities(context, tls)
    present_certificate(context, tls)
    return context


def trust_authorities(context: ssl.SSLContext, tls: TlsSection) -> None:
    """Trust the CA certificates in ``ca_file``, or the system's.

    Raises:
        ConfigError: the file cannot be read or does not contain a certificate.
    """
    if tls.ca_file is None:
        context.load_default_certs()
        return
    key = "mqtt.tls.ca_file"
    read_text(tls.ca_file, shown=f"{key}: {tls.ca_file}")
    try:
        context.load_verify_locations(tls.ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {tls.ca_file} does not contain a PEM certificate") from error


def present_certificate(context: ssl.SSLContext, tls: TlsSection) -> None:
    """Use the client certificate in ``cert_file``, if it is set, with its key in ``key_file`` or the same file.

    Raises:
        ConfigError: a file cannot be read, the key is encrypted, or they do not belong together.
    """
    if tls.cert_file is None:
        return
    read_text(tls.cert_file, shown=f"mqtt.tls.cert_file: {tls.cert_file}")
    if tls.key_file is not None:
        read_secret(tls.key_file, "mqtt.tls.key_file")
    file = tls.key_file or tls.cert_file

    def refuse() -> str:  # without it, OpenSSL asks for the passphrase at the terminal
        raise ConfigError(
            f"mqtt.tls.key_file: the key in {file} is encrypted. Decrypt it with `openssl pkey -in {file} -out NEW`"
        )

    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=refuse)
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            why = "the key belongs to another certificate"
        else:
            why = "a PEM certificate and its key are needed"
        raise ConfigError(
            f"mqtt.tls.cert_file: {tls.cert_file} cannot be used with the key in {file}: {why}"
        ) from error
