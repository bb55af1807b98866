"""TLS of the connection to the broker."""

from __future__ import annotations

import ssl

import paho.mqtt.client as paho

from tridetr.config.schema import TlsSection
from tridetr.errors import BrokerError


def set_tls(client: paho.Client, tls: TlsSection) -> None:
    """Make a client speak TLS.

    Raises:
        BrokerError: the certificates cannot be used.
    """
    try:
        client.tls_set(
            ca_certs=str(tls.ca_file) if tls.ca_file else None,
            certfile=str(tls.cert_file) if tls.cert_file else None,
            keyfile=str(tls.key_file) if tls.key_file else None,
        )
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BrokerError(f"mqtt.tls: the certificates cannot be used: {error}") from None
