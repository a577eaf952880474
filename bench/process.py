"""What a process uses, by /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """At one moment, but for `cpu_s` and `peak_mb`, which are since its start."""

    cpu_s: float
    rss_mb: float
    peak_mb: float
    files: int

    @staticmethod
    def of(pid: int) -> Usage:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return Usage(
            cpu_s=(int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
            rss_mb=int(status["VmRSS"].split()[0]) / 1024,
            peak_mb=int(status["VmHWM"].split()[0]) / 1024,
            files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        )
