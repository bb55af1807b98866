"""The detector's one connection to the server, shared by all cameras: connects for ever, says each change once."""

from __future__ import annotations

import asyncio
import logging

from tridetr.config import Config
from tridetr.errors import TritonError
from tridetr.served_model import ServedModel, write_served_model
from tridetr.telemetry.metrics import MODEL_INFO
from tridetr.triton.client import TritonClient
from tridetr.triton.contract import ModelInfo
from tridetr.triton.errors import ModelUnavailable

logger = logging.getLogger("tridetr.detector")

RETRY_S = 0.2


class Session:
    """A server whose model keeps the contract.

    Attributes:
        client: for inferences and registrations.
        model: what serves; set by the first ``ready``.
        connection: grows with each (re)connection; registrations made under an older one are gone.
    """

    def __init__(self, config: Config, client: TritonClient) -> None:
        self.client = client
        self.model: ModelInfo | None = None
        self.connection = 0
        self._config = config
        self._lock = asyncio.Lock()

    async def ready(self, lost: int) -> ModelInfo:
        """Wait until the model serves.

        Args:
            lost: the connection that the caller knows to be lost; 0 at the start. If somebody has connected anew
                since, this returns at once.

        Raises:
            ModelError: the model does not keep the contract.
        """
        async with self._lock:
            if self.model is not None and self.connection > lost:
                return self.model
            last = ""
            while True:
                try:
                    model = await self.client.model()
                    break
                except ModelUnavailable as error:
                    if str(error) != last:
                        last = str(error)
                        logger.warning("waiting for the model: %s", error)
                except TritonError as error:
                    if str(error) != last:
                        last = str(error)
                        logger.error("the server refuses: %s", error)
                await asyncio.sleep(RETRY_S)
            self._announce(model)
            self.model = model
            self.connection += 1
            return model

    def _announce(self, model: ModelInfo) -> None:
        logger.info(
            "model %s version %s serves with %s, provider %s, precision %s",
            model.name, model.version, model.engine, model.provider, model.precision,
        )  # fmt: skip
        MODEL_INFO.clear()
        MODEL_INFO.labels(model.name, model.engine, model.provider, model.precision).set(1)
        served = ServedModel(
            name=model.name,
            version=model.version,
            engine=model.engine,
            provider=model.provider,
            precision=model.precision,
            classes=dict(model.classes),
        )
        write_served_model(self._config.run_dir, served)
