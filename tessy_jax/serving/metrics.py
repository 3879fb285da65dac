"""What Prometheus reads at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.answers = Counter("tessy_http_answers", "Answers of the API.", ["path", "status"], registry=registry)
        self.prompt_tokens = Counter("tessy_prompt_tokens", "Tokens of prompts that were taken.", registry=registry)
        self.tokens = Counter("tessy_generated_tokens", "Tokens written for clients.", registry=registry)
        self.texts = Counter("tessy_texts", "Texts that ended, by how.", ["finish"], registry=registry)
        self.running = Gauge("tessy_slots_taken", "Texts that are being written.", registry=registry)
        self.waiting = Gauge("tessy_texts_waiting", "Texts that wait for a slot.", registry=registry)
        self.pages = Gauge("tessy_cache_pages_taken", "Pages of the caches that texts have.", registry=registry)
        self.first = Histogram(
            "tessy_first_text_seconds", "From a request to its first text.", registry=registry, buckets=_SECONDS
        )
        self.whole = Histogram(
            "tessy_text_seconds", "From a request to the end of a text.", registry=registry, buckets=_SECONDS
        )

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
