"""Where and when something was measured."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class Machine:
    """What the figures depend on beside the code.

    Attributes:
        date: in UTC.
        processor: its name.
        cores: that this process may use.
        threads: that torch uses.
        device: name of the device computed on.
        versions: of Python and the packages involved.
    """

    date: str
    processor: str
    cores: int
    threads: int
    device: str
    versions: dict[str, str]

    def __str__(self) -> str:
        """One line, as it stands above a table."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        device = "" if self.device == "cpu" else f"{self.device}; "
        return f"{self.date}; {device}{self.processor}, {self.cores} cores, {self.threads} thread(s); {versions}"


def today() -> str:
    """The date in UTC."""
    return datetime.now(UTC).date().isoformat()


def this_machine(device: torch.device) -> Machine:
    """The machine that this runs on, now."""
    packages = ("torch", "numpy", "scipy", "pyhessian", "hessian-eigenthings", "loss-landscapes")
    return Machine(
        date=today(),
        processor=_processor(),
        cores=psutil.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        versions={"python": platform.python_version()} | {name: version(name) for name in packages},
    )


def _processor() -> str:
    """The model's name: Python's own answer is often empty on Linux."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
