"""The machine and the date of a measurement."""

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
    """The conditions of a measurement, apart from the code.

    Attributes:
        date: date in UTC.
        processor: name of the processor.
        cores: number of the machine's logical cores.
        threads: number of torch's threads.
        device: name of the device that computes.
        versions: versions of Python and of the packages.
    """

    date: str
    processor: str
    cores: int
    threads: int
    device: str
    versions: dict[str, str]

    def __str__(self) -> str:
        """The line that stands above a table."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        device = "" if self.device == "cpu" else f"{self.device}; "
        return f"{self.date}; {device}{self.processor}, {self.cores} cores, {self.threads} thread(s); {versions}"


def today() -> str:
    """The date in UTC."""
    return datetime.now(UTC).date().isoformat()


def this_machine(device: torch.device) -> Machine:
    """The machine that this process runs on, and today's date."""
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
    """The processor's model name, from /proc/cpuinfo where there is one: Python's own is often empty on Linux."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
