"""Names that may be used once, until they expire. Kept over restarts."""

from __future__ import annotations

from collections.abc import Iterable


class Used:
    kind = "used"

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self._until_ms: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._until_ms

    def use(self, name: str, until_ms: int) -> bool:
        """False when it was used before."""
        if name in self._until_ms:
            return False
        self._until_ms[name] = until_ms
        self.changed.add(name)
        return True

    def prune(self, now_ms: int) -> None:
        """Forgets what has expired."""
        for name in [name for name, until_ms in self._until_ms.items() if until_ms <= now_ms]:
            del self._until_ms[name]
            self.changed.add(name)

    def names(self) -> Iterable[str]:
        return self._until_ms.keys()

    def dump(self, name: str) -> tuple[str, int] | None:
        until_ms = self._until_ms.get(name)
        return None if until_ms is None else (str(until_ms), until_ms)

    def restore(self, name: str, text: str) -> None:
        self._until_ms.setdefault(name, int(text))
