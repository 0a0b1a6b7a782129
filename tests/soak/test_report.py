"""What a soak makes of its measurements, and of jobs messages."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.soak.jobs import LINES, MESSAGES_PER_JOB, job_of, messages, number_of
from tests.soak.report import Sample, Window, growth, percentiles, stretches


def sample(seconds: float, resident: float) -> Sample:
    """One of which only time and memory matter."""
    return Sample(seconds, int(resident), 0, 0.0, 0, 0, 0)


class ReportTests(SynchronousTestCase):
    """Figures."""

    def test_growth(self) -> None:
        """Memory at both ends of a stretch, whatever happens once in between, and its slope."""
        steady = [sample(t, 1000 + (500_000 if t == 50 else 0)) for t in range(100)]
        self.assertEqual(growth(steady)[:2], (1000, 1000))
        first, last, slope = growth([sample(t, 10 * t) for t in range(100)])
        self.assertGreater(last - first, 700)
        self.assertAlmostEqual(slope, 36_000)

    def test_stretches(self) -> None:
        """Neither the warm-up, nor the full disk, nor what is made up for behind it."""
        samples = [sample(t, 0) for t in range(161)]
        (whole,) = stretches(samples, None)
        self.assertEqual((whole[0].seconds, whole[-1].seconds), (40, 160))
        before, behind = stretches(samples, Window(70, 90))
        self.assertEqual((before[-1].seconds, behind[0].seconds), (70, 110))

    def test_percentiles(self) -> None:
        """In milliseconds; none of nothing."""
        self.assertEqual(percentiles([]), {})
        found = percentiles([one / 1000 for one in range(1001)])
        self.assertEqual((found["p50"], found["p99"], found["max"]), (500, 990, 1000))


class JobsTests(SynchronousTestCase):
    """Messages."""

    def test_whole_jobs(self) -> None:
        """Numbered in their order, each job in its own, all of them through at the end."""
        source = messages(1)
        found = [next(source) for _ in range(500)]
        found.append(source.send(True))
        found += source
        bodies = [text[:-1] for _, _, text in found]
        self.assertEqual([number_of(body) for body in bodies], list(range(1, len(found) + 1)))
        self.assertEqual([job_of(body) for body in bodies], [job for job, _, _ in found])
        self.assertEqual(set(Counter(job for job, _, _ in found).values()), {MESSAGES_PER_JOB})
        self.assertEqual([kind for job, kind, _ in found if job == 7], list(LINES))
