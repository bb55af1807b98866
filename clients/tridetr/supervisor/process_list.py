"""Plan the processes that a configuration needs, in the order in which they start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tridetr.broker import EMBEDDED, broker_command
from tridetr.config import Config
from tridetr.errors import ConfigError
from tridetr.python_module import module_command
from tridetr.role import ROLES

# Delay of processes that the first result does not need: about the time the others take to start on two cores
_LATER_S = 2.0


@dataclass(frozen=True)
class ProcessSpec:
    """One process of the node.

    Attributes:
        name: Such as ``detector`` or ``capture hall``; also the name of its heartbeat and metrics.
        argv: The command line.
        stop_stage: Processes of a lower stage are stopped first, so that those downstream can drain.
        beats: Whether it keeps a heartbeat.
        may_finish: Whether exit status 0 means that it is done (a file that ended) and not a fault.
        delay_s: Delay of the first start, to leave the cores to what the first result needs [s].
    """

    name: str
    argv: tuple[str, ...]
    stop_stage: int
    beats: bool = True
    may_finish: bool = False
    delay_s: float = 0.0


def plan_processes(
    config: Config, config_file: Path, only: Sequence[str] = (), *, gpu: bool = False
) -> list[ProcessSpec]:
    """Return the processes of a node.

    Args:
        config: The validated configuration.
        config_file: The file that the processes read.
        only: Names of the processes to run; empty = all.
        gpu: Whether the node needs the gpu process; in a container, naming it in ``only`` is enough.

    Raises:
        ConfigError: ``only`` names a process that this configuration does not have.
    """

    def process(
        command: str, *camera: str, stop_stage: int, may_finish: bool = False, delay_s: float = 0.0
    ) -> ProcessSpec:
        words = (command, *camera)
        name = " ".join(words) if camera else ROLES[command][0]
        argv = module_command("tridetr.role", *words, "--config", str(config_file))
        return ProcessSpec(name, tuple(argv), stop_stage, may_finish=may_finish, delay_s=delay_s)

    later_s = 0.0 if only else _LATER_S
    specs: list[ProcessSpec] = []
    if config.mqtt.host == EMBEDDED:
        specs.append(ProcessSpec("broker", tuple(broker_command(config)), 3))
    if config.triton.url is None:
        specs.append(process("triton", stop_stage=3))
    if gpu or "gpu" in only:
        specs.append(process("gpu", stop_stage=1))
    for name, camera in config.cameras.items():
        ends = camera.source.kind == "file" and not camera.loop
        specs.append(process("capture", name, stop_stage=0, may_finish=ends))
    specs += [
        process("detect", stop_stage=1),
        process("control", stop_stage=2),
        process("serve", stop_stage=0, delay_s=later_s),
    ]
    if config.evidence_dir is not None:
        specs.append(process("record", stop_stage=3, delay_s=later_s))
    known = {spec.name: spec for spec in specs}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(
            f"no process {', '.join(map(repr, unknown))} in this configuration; known processes: {', '.join(known)}"
        )
    return [known[name] for name in only] if only else specs
