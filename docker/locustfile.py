"""Load for the service in docker-compose.yml: recall with and without a history, and feedback.

A closed loop: each user waits for its answer, so this finds errors and a rough rate, not the latency under overload.
Ids are those of the demo's synthetic logs; unknown ids are dropped by the service, so it runs on any bundle.
"""

import random

from locust import FastHttpUser, between, task

NUM_USERS, NUM_ITEMS = 6000, 3000


class Viewer(FastHttpUser):
    wait_time = between(0.05, 0.15)

    def on_start(self) -> None:
        self.user = random.randint(1, NUM_USERS)
        self.history = [popular() for _ in range(random.randint(1, 50))]

    @task(6)
    def open_app(self) -> None:
        """The same history again is what the vector cache answers."""
        self.client.post("/recall", json={"user_id": self.user, "history": self.history, "top_n": 100})

    @task(2)
    def open_app_stored(self) -> None:
        """Without a history: the service reads what feedback left."""
        self.client.post("/recall", json={"user_id": self.user, "top_n": 100}, name="/recall (stored history)")

    @task(2)
    def watch(self) -> None:
        item = popular()
        self.history = [*self.history, item][-50:]
        event = {"user_id": self.user, "item_id": item, "action": "play", "watch_time_ms": random.randint(500, 60_000)}
        self.client.post("/feedback", json=event)


def popular() -> int:
    """An item id; low ids often, like the head of a real catalogue."""
    return 1 + int(NUM_ITEMS * random.random() ** 3)
