"""A page with real services, and raw HTTP requests to it; imported by tests/test_advisories.py."""

from pathlib import Path
from typing import Any

import httpx

from web.app import Address, build_app, find_port, serve
from web.jobs.registry import JobContext
from web.jobs.requests import TrainRequest
from web.services import converting_runners, make_services

PATIENCE = 120.0  # seconds


class Page:
    """A page with real services in folders of its own, without a login."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights, self.logs = folder / "weights", folder / "logs"
        self.weights.mkdir()
        self.requests: list[TrainRequest] = []
        runners = {**converting_runners([self.weights]), "train": self.train}
        self.services = make_services(folder / "made", "cpu", [self.weights], self.logs, local=False, runners=runners)
        self.app = build_app(self.services)
        self.url = serve(self.app, Address("127.0.0.1", find_port("127.0.0.1", None)), [self.services.files])[0]
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)

    def train(self, request: TrainRequest, context: JobContext) -> list[Path]:
        """Note the request instead of training."""
        self.requests.append(request)
        return []

    def call(self, name: str, *data: Any) -> str:
        """The answer of an endpoint, as the raw stream of events."""
        begun = self.client.post(f"/gradio_api/call/{name}", json={"data": list(data)})
        if begun.status_code != 200:
            return f"event: error {begun.status_code}"
        return self.client.get(f"/gradio_api/call/{name}/{begun.json()['event_id']}").text

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Upload a file; returns it as a parameter of an endpoint."""
        (path,) = self.client.post("/gradio_api/upload", files={"files": (name, data)}).json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def parameters(self, name: str, /, **values: Any) -> list[Any]:
        """The parameters of an endpoint in order; what is not named has its default."""
        about = self.client.get("/gradio_api/info").json()["named_endpoints"][f"/{name}"]["parameters"]
        return [values.get(each["parameter_name"], each.get("parameter_default")) for each in about]
