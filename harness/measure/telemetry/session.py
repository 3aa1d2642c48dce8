"""What the sampler process remembers: every sample, the period, missed ticks, and what was lost on the way."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.clock import now_ns
from harness.measure.telemetry import memory_sampler
from harness.measure.telemetry.base import Sample, Sampler, Sensor, SensorLost
from harness.measure.telemetry.detect import Found
from harness.records import Channel, Telemetry
from harness.units import NS_PER_S, ns_to_s

_SILENT_PERIODS = 5  # a channel that has been quiet for longer is told as lost


class _Track:
    """All samples of one sensor, in arrays of 8-byte numbers, because a study lasts hours."""

    def __init__(self, sensor: Sensor, period_ns: int) -> None:
        self.sensor = sensor
        self.period_ns = period_ns
        self._at_ns = array("q")
        self._values = array("d")

    def add(self, sample: Sample) -> None:
        self._at_ns.append(sample.at_ns)
        self._values.append(sample.value)

    @property
    def last_ns(self) -> int | None:
        return self._at_ns[-1] if self._at_ns else None

    def channel(self, start_ns: int, end_ns: int) -> Channel:
        """Samples of a span and the nearest one on either side, so that its edges can be interpolated."""
        first = max(0, bisect_left(self._at_ns, start_ns) - 1)
        return self._channel(slice(first, bisect_right(self._at_ns, end_ns) + 1))

    def bare(self) -> Channel:
        """The channel without its samples."""
        return self._channel(slice(0))

    def _channel(self, span: slice) -> Channel:
        sensor = self.sensor
        return Channel(
            name=sensor.name,
            quantity=sensor.quantity,
            source=sensor.source,
            scope=sensor.scope,
            quality=sensor.quality,
            resolution=sensor.resolution,
            at_ns=tuple(self._at_ns[span]),
            values=tuple(self._values[span]),
            wrap_at=sensor.wrap_at,
            part_of=sensor.part_of,
            update_ns=sensor.update_ns,
        )


class Session:
    """Polls samplers when told to; no clockwork of its own, so that tests drive it tick by tick."""

    def __init__(self, found: Found, *, root: Path, period_ns: int, clock: Callable[[], int] = now_ns) -> None:
        self.period_ns = period_ns
        self._clock = clock
        self._root = root
        self._absent = dict(found.absent)
        self._tracks: list[_Track] = []
        self._live: list[tuple[Sampler, list[_Track]]] = []
        self._followed: list[Sampler] = []
        self._missed_ns: list[int] = []
        self._ticks = 0
        self._start_ns = clock()
        for sampler in found.samplers:
            self._adopt(sampler)

    def _adopt(self, sampler: Sampler) -> None:
        tracks = [_Track(sensor, self.period_ns * sampler.every_ticks) for sensor in sampler.sensors]
        self._tracks += tracks
        self._live.append((sampler, tracks))

    def follow(self, pids: Sequence[int]) -> None:
        """From now on keep the memory of these processes, and of no others."""
        self._live = [(sampler, tracks) for sampler, tracks in self._live if sampler not in self._followed]
        self._followed = [memory_sampler.follow(self._root, pid) for pid in pids]
        for sampler in self._followed:
            self._adopt(sampler)

    def tick(self) -> None:
        """Poll every sampler that is due; one that is lost is dropped with its reason, the others go on."""
        for sampler, tracks in list(self._live):
            if self._ticks % sampler.every_ticks:
                continue
            try:
                samples = sampler.poll()
            except SensorLost as lost:
                self._absent[sampler.name] = f"lost: {lost}"
                self._live = [pair for pair in self._live if pair[0] is not sampler]
                continue
            for sample in samples:
                tracks[sample.sensor].add(sample)
        self._ticks += 1

    def miss(self, count: int) -> None:
        """Ticks that were due while the process did not run."""
        self._missed_ns += [self._clock()] * count

    def covers(self, end_ns: int) -> bool:
        """Whether every live channel of the fast rhythm has a sample at or after a moment; processes may be gone."""
        fast = [t for s, tracks in self._live if s.every_ticks == 1 and s not in self._followed for t in tracks]
        moments = [track.last_ns for track in fast if not self._silent(track, self._clock())]
        return all(moment is not None and moment >= end_ns for moment in moments)

    def _silent(self, track: _Track, now: int) -> bool:
        last = self._start_ns if track.last_ns is None else track.last_ns
        return now - last > max(_SILENT_PERIODS * track.period_ns, NS_PER_S)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels without samples, for the handshake."""
        return tuple(track.bare() for track in self._tracks)

    @property
    def absent(self) -> dict[str, str]:
        """What is missing, lost or imperfect up to now."""
        return self._reasons(self._clock())

    def _reasons(self, end_ns: int) -> dict[str, str]:
        reasons = dict(self._absent)
        for sampler, _ in self._live:
            reasons |= sampler.notes()
        for track in self._tracks:
            if self._silent(track, end_ns):
                last = track.last_ns
                seen = "never read" if last is None else f"last reading {ns_to_s(end_ns - last):.1f} s before the end"
                reasons.setdefault(track.sensor.name, f"lost: {seen}")
        return reasons

    def telemetry(self, start_ns: int | None = None, end_ns: int | None = None) -> Telemetry:
        """Everything within a span; without one, the session's whole life. Channels without a sample are left out."""
        start = self._start_ns if start_ns is None else start_ns
        end = self._clock() if end_ns is None else end_ns
        channels = (track.channel(start, end) for track in self._tracks if not self._over(track, start))
        return Telemetry(
            period_ns=self.period_ns,
            missed_ticks=sum(start <= moment <= end for moment in self._missed_ns),
            start_ns=start,
            end_ns=end,
            channels=tuple(channel for channel in channels if channel.at_ns),
            absent=self._reasons(end),
        )

    def _over(self, track: _Track, start_ns: int) -> bool:
        """A process that was followed only before the span is no channel of it."""
        dropped = all(track not in tracks for _, tracks in self._live)
        return dropped and track.last_ns is not None and track.last_ns < start_ns

    def close(self) -> None:
        """Let go of all sources."""
        for sampler, _ in self._live:
            sampler.close()
