"""Reads the pods' counters: from the pods themselves, or from a Prometheus that scrapes them.

Neither goes through Knative's route, so a look does not wake a revision that is scaled to zero.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rollout.api import API
from rollout.canary import Component
from rollout.errors import NoEvidence
from rollout.evidence import METRICS, STARTED, Evidence, Metric, Pod, count
from rollout.record import now

REVISION_LABEL = "serving.knative.dev/revision"
SCRAPED_LABEL = "serving_knative_dev_revision"
"""The name that Prometheus gives to ``REVISION_LABEL``."""
PORT_FLAG = "--metrics_port="
TIMEOUT = 3
"""Seconds to wait for an answer of a pod."""
ASKED = 16
"""The number of pods that are asked at a time."""
RANGE = 180
"""The window in seconds in which Prometheus should have scraped each pod at least twice."""
STALE = 120
"""Seconds after which a reading is too old to tell of the present."""


class Reading(NamedTuple):
    """One look at all pods."""

    time: float
    """Seconds since 1970, on this machine's clock, at which the counters had these values."""
    pods: Mapping[str, Pod]
    """The pods that have answered, by name."""
    silent: frozenset[str] = frozenset()
    """Those of ``pods`` that Prometheus has not scraped for a while: they may have gone."""

    def shows(self, revision: str | None) -> bool:
        """Return whether it is fresh and has a pod of ``revision``."""
        is_fresh = self.time > time.time() - STALE
        return is_fresh and any(pod.revision == revision for pod in self.pods.values())


class Source(Protocol):
    """Reads the counters of the service's pods."""

    def read(self, slow: float) -> Reading:
        """Read all counters once; answers that took more than ``slow`` seconds count as slow.

        Raises:
            NoEvidence: nothing can be read.
        """


class Pods:
    """Reads the metrics port of each pod."""

    def __init__(self, api: API) -> None:
        """List the pods through ``api``."""
        self._api = api
        # Pods are never behind a proxy.
        self._client = httpx.Client(timeout=TIMEOUT, trust_env=False)

    def read(self, slow: float) -> Reading:
        """See ``Source``."""
        now = time.time()
        found = self._api.pods()
        addresses = {name: url for name, pod in found.items() if (url := _address(pod))}
        if found and not addresses:
            raise NoEvidence(f"no pod of {self._api.name} has {PORT_FLAG} among its arguments")

        def ask(name: str) -> Pod | None:
            try:
                page = self._client.get(addresses[name]).raise_for_status().text
                return _pod(found[name]["metadata"]["labels"], REVISION_LABEL, _parse(page), slow)
            except (httpx.HTTPError, ValueError, LookupError):
                return None  # it is starting or stopping, or something else answers there

        with ThreadPoolExecutor(ASKED) as threads:
            answers = zip(addresses, threads.map(ask, addresses), strict=True)
        pods = {name: pod for name, pod in answers if pod}
        if addresses and not pods:
            raise NoEvidence(
                f"none of {len(addresses)} pods answers, such as {next(iter(addresses.values()))}."
                " They can be reached from inside the cluster; from elsewhere, give --prometheus"
            )
        return Reading(now, pods)


def _address(pod: Mapping[str, Any]) -> str | None:
    """Return the URL of a pod's metrics, or ``None`` if it has no address or port for them."""
    host = pod.get("status", {}).get("podIP")
    args = (arg for each in pod["spec"]["containers"] for arg in each.get("args") or ())
    ports = [arg.removeprefix(PORT_FLAG) for arg in args if arg.startswith(PORT_FLAG)]
    if not host or not ports:
        return None
    return f"http://{f'[{host}]' if ':' in host else host}:{ports[-1]}/metrics"


def _parse(page: str) -> Iterator[Metric]:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in METRICS:
                yield Metric(sample.name, sample.labels, sample.value)


def _pod(labels: Mapping[str, str], revision: str, metrics: Iterable[Metric], slow: float) -> Pod:
    """Return the counters of a pod, whose revision is the label ``revision``.

    Raises:
        ValueError: a counter is no finite number.
    """
    metrics = list(metrics)
    if not all(math.isfinite(each.value) for each in metrics):
        raise ValueError("a counter is no number")
    started = next((each.value for each in metrics if each.name == STARTED), 0.0)
    counts = count(metrics, slow=slow)
    return Pod(labels.get("component", ""), labels.get(revision, ""), started, counts)


class Prometheus:
    """Reads a Prometheus that scrapes the pods as ``manifests/components/monitoring`` sets up."""

    def __init__(self, url: str, namespace: str, service: str) -> None:
        """Read the pods of ``service`` at ``url``, such as ``http://127.0.0.1:9090``."""
        self._url = f"{url.rstrip('/')}/api/v1/query"
        names = "|".join(METRICS)
        # The PodMonitor names the job as the service.
        self._query = f'{{__name__=~"{names}",namespace="{namespace}",job="{service}"}}[{RANGE}s]'
        self._client = httpx.Client(timeout=30)

    def read(self, slow: float) -> Reading:
        """See ``Source``."""
        now = time.time()
        try:
            answer = self._client.post(self._url, data={"query": self._query}).raise_for_status()
            # In whole seconds, of a clock that may not agree with this machine's.
            there = parsedate_to_datetime(answer.headers["date"]).timestamp() + 1
            reading = _reading(answer.json()["data"]["result"], there, slow)
            return reading._replace(time=reading.time - there + now)
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise NoEvidence(f"Prometheus at {self._url} does not answer: {error}") from None


def _reading(result: Iterable[Any], now: float, slow: float) -> Reading:
    """Return the counters from what Prometheus has scraped until ``now``, on its clock.

    Pods are scraped at different moments, and a version that was scraped later would seem to have
    got more traffic. So all are read at the latest moment that every pod has reached, interpolated
    between the two scrapes around it.
    """
    series: dict[str, list[Any]] = {}
    for each in result:
        series.setdefault(each["metric"].get("pod", ""), []).append(each)
    last = {pod: max(each["values"][-1][0] for each in mine) for pod, mine in series.items()}
    newest = max(last.values(), default=now)
    # Of a pod that is far behind the others the last values count: it may have gone.
    silent = frozenset(pod for pod, at in last.items() if at <= newest - RANGE / 3)
    moment = min((at for pod, at in last.items() if pod not in silent), default=newest)
    pods = {}
    for name, mine in series.items():
        first, final = _process(mine, moment)
        metrics = [
            Metric(each["metric"]["__name__"], each["metric"], value)
            for each in mine
            if (value := _value(each["values"], moment, first, final)) is not None
        ]
        if metrics:
            pods[name] = _pod(mine[0]["metric"], SCRAPED_LABEL, metrics, slow)
    return Reading(moment, pods, silent)


def _process(series: Iterable[Any], moment: float) -> tuple[float, float]:
    """Return the times of the first and last scrape of the process that ran at ``moment``.

    The range may also hold the counters of the process before a restart, which were counted then.
    """
    for each in series:
        if each["metric"]["__name__"] == STARTED:
            last = bisect_right([at for at, _ in each["values"]], moment) - 1
            started = each["values"][max(last, 0)][1]
            scrapes = [at for at, value in each["values"] if value == started]
            return scrapes[0], scrapes[-1]
    return -math.inf, math.inf


def _value(
    values: list[tuple[float, str]], moment: float, first: float, final: float
) -> float | None:
    """Return a series' value at ``moment``, interpolated between the scrapes around it.

    Only scrapes from ``first`` to ``final`` count; ``None`` if all of them are later.
    """
    values = [each for each in values if first <= each[0] <= final]
    after = bisect_right([at for at, _ in values], moment)
    if after == 0:
        return None
    at, before = values[after - 1][0], float(values[after - 1][1])
    if after == len(values):
        return before
    then, later = values[after][0], float(values[after][1])
    if later < before:  # restarted in between
        return before
    return before + (later - before) * (moment - at) / (then - at)


def begin(source: Source, evidence: Evidence, live: Component) -> None:
    """Begin a stage of ``evidence`` from counters that were read after this call.

    Prometheus lags by up to a scrape, and from older counters calls of the old split would count
    for the new one. Waits up to ``RANGE`` seconds for it.

    Raises:
        NoEvidence: nothing can be read, or nothing recent enough.
    """
    since = time.time()
    while (reading := source.read(evidence.slow)).time < since:
        if time.time() > since + RANGE:
            raise NoEvidence(f"nothing has been scraped for {RANGE} s")
        time.sleep(1)
    evidence.begin(live, now(), reading.pods)


def look(api: API, source: Source, evidence: Evidence, live: Component) -> bool:
    """Add to ``evidence`` what was counted since the last look, at the present split.

    Returns:
        Whether the reading covers what both revisions do now. If it does not cover the stable one,
        nothing is added.

    Raises:
        NoEvidence: nothing can be read.
    """
    reading, pods = source.read(evidence.slow), api.pods()

    def is_seen(revision: str | None) -> bool:
        """Return whether all ready pods that were seen before are read; true if it has no pods."""
        own = {
            name: pod
            for name, pod in pods.items()
            if pod["metadata"]["labels"].get(REVISION_LABEL) == revision
        }
        answering = {name for name, pod in own.items() if _is_ready(pod)} & evidence.seen.keys()
        heard = reading.pods.keys() - reading.silent
        return answering <= heard and (reading.shows(revision) or not own)

    # A fault of both versions, seen only in the canary's pods, would condemn it.
    if not is_seen(live.rolled_out):
        return False
    evidence.add(reading.pods, live)
    return is_seen(live.created)


def _is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod is ready, so that it gets traffic."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
