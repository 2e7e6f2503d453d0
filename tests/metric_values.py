"""The values of this process's metrics."""

from collections.abc import Mapping

from quiltfn.observe import metrics


def sample_value(name: str, labels: Mapping[str, str] | None = None) -> float:
    """The value of a series; 0 if there is no such series yet."""
    samples = [sample for family in metrics.families() for sample in family.samples]
    found = [one.value for one in samples if one.name == name and one.labels == (labels or {})]
    return found[0] if found else 0.0


def values() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The values of all series, by name and labels, without the times of their first counts."""
    samples = [sample for family in metrics.families() for sample in family.samples]
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for one in samples
        if not one.name.endswith("_created")
    }
