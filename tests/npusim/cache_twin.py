"""A second writing of the caches, with dictionaries: what the kernels must agree with, access for access."""

from __future__ import annotations

from collections import OrderedDict

from isa.cache import Cache


class TwinCache:
    """One cache; a set is an ordered dictionary from line to [valid, dirty], next victim first (not for the tree)."""

    def __init__(self, cache: Cache, groups: int = 1, seed: int = 1) -> None:
        self.cache, self.groups = cache, groups
        self.count = cache.size_bytes // cache.ways // cache.line_bytes
        self.sets: list[OrderedDict[int, list[int]]] = [OrderedDict() for _ in range(self.count)]
        self.ways: list[list[int | None]] = [[None] * cache.ways for _ in range(self.count)]
        self.trees: list[dict[tuple[int, int], int]] = [{} for _ in range(self.count)]
        self.random = seed * 69069 + 1

    def set_of(self, line: int) -> int:
        line //= self.groups
        if not self.cache.hash_sets:
            return line % self.count
        digits = []
        while line and self.count > 1:
            line, digit = divmod(line, self.count)
            digits.append(digit)
        if self.count & (self.count - 1):
            return sum(digits) % self.count
        folded = 0
        for digit in digits:
            folded ^= digit
        return folded

    def _touch(self, s: int, line: int) -> None:
        """The tree maps (first way, ways) of a node to the half that is replaced next."""
        way, low, size = self.ways[s].index(line), 0, self.cache.ways
        while size > 1:
            half = size // 2
            right = way >= low + half
            self.trees[s][low, size] = 0 if right else 1
            low, size = low + half * right, half

    def _victim_way(self, s: int) -> int:
        if None in self.ways[s]:
            return self.ways[s].index(None)
        if self.cache.replacement == "random":
            self.random = (self.random * 1103515245 + 12345) % 2**31
            return (self.random >> 12) % self.cache.ways
        low, size = 0, self.cache.ways
        while size > 1:
            low, size = low + size // 2 * self.trees[s].get((low, size), 0), size // 2
        return low

    def _fill(self, s: int, line: int, kept: int, dirty: int) -> tuple[int, int]:
        lines, ways = self.sets[s], self.ways[s]
        if line in lines:
            lines[line][0] |= kept
            lines[line][1] |= dirty
            return -1, 0
        victim, lost = -1, 0
        if self.cache.replacement in ("lru", "fifo"):
            if len(lines) == self.cache.ways:
                victim, (_, lost) = lines.popitem(last=False)
        else:
            way = self._victim_way(s)
            old = ways[way]
            if old is not None:
                victim, lost = old, lines.pop(old)[1]
            ways[way] = line
        lines[line] = [kept, dirty]
        if self.cache.replacement == "plru":
            self._touch(s, line)
        return victim, lost

    def access(self, line: int, sectors: int, whole: int, write: int) -> tuple[int, int, int, int, int]:
        """As npusim.memory.caches.lines.access."""
        s = self.set_of(line)
        lines, back = self.sets[s], self.cache.write == "back"
        passed = sectors if write and not back else 0
        dirty = sectors if write and back else 0
        if line in lines:
            if self.cache.replacement == "lru":
                lines.move_to_end(line)
            elif self.cache.replacement == "plru":
                self._touch(s, line)
            missing = sectors & ~whole & ~lines[line][0]
            if not missing:
                if write:
                    lines[line][0] |= sectors
                    lines[line][1] |= dirty
                return 0, 0, -1, 0, passed
            status = 1
        else:
            missing, status = sectors & ~whole, 2
            if write and not self.cache.write_allocate:
                return 2, 0, -1, 0, sectors
        return status, missing, *self._fill(s, line, missing | (sectors if write else 0), dirty), passed

    def invalidate(self, line: int) -> int:
        s = self.set_of(line)
        if line not in self.sets[s]:
            return 0
        if line in self.ways[s]:
            self.ways[s][self.ways[s].index(line)] = None
        return self.sets[s].pop(line)[1]
