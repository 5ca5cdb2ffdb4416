"""The containers' files against the code: eviction policies, users, limits, profiles, variables, metric names."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer
import yaml

from docs.generate import metric_families
from recall.__main__ import make_app
from service.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
DEFAULT_IMAGES = {"redis:7", "python:3.11-slim"}
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.fixture(scope="module")
def default_services(services: dict[str, Any]) -> dict[str, Any]:
    """The services that a plain `up` starts."""
    return {name: service for name, service in services.items() if "profiles" not in service}


def redis_options(service: dict[str, Any]) -> dict[str, str]:
    words = service["command"][1:]
    return dict(zip(words[::2], words[1::2], strict=True))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of each logical line."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def final_stage(dockerfile: Path) -> list[tuple[str, str]]:
    lines = instructions(dockerfile)
    return lines[max(n for n, (name, _) in enumerate(lines) if name == "FROM") :]


def known_variables() -> set[str]:
    """The variables of the settings and of the command line."""
    commands = typer.main.get_command(make_app()).commands.values()
    options = {param.envvar for command in commands for param in command.params if param.envvar}
    return {f"RECALL_{name.upper()}" for name in Settings.model_fields} | options


def test_the_cache_may_evict_and_keeps_nothing(services: dict[str, Any]) -> None:
    options = redis_options(services["redis-cache"])
    assert options["--maxmemory-policy"] == "allkeys-lfu"
    assert options["--save"] == ""
    assert options["--appendonly"] == "no"
    assert "volumes" not in services["redis-cache"]


def test_events_are_never_evicted_and_outlive_the_container(services: dict[str, Any]) -> None:
    options = redis_options(services["redis-events"])
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert services["redis-events"]["volumes"] == ["events:/data"]


@pytest.mark.parametrize("role", ["redis-cache", "redis-events"])
def test_a_redis_meets_its_own_bound_before_the_kernel_ends_it(services: dict[str, Any], role: str) -> None:
    asked = int(redis_options(services[role])["--maxmemory"].removesuffix("mb"))
    assert int(services[role]["mem_limit"].removesuffix("m")) > asked


def test_each_role_has_its_own_server(services: dict[str, Any]) -> None:
    environment = services["recall"]["environment"]
    assert environment["RECALL_REDIS_URL"] == "redis://redis-cache:6379/0"
    assert environment["RECALL_EVENTS_REDIS_URL"] == "redis://redis-events:6379/0"


def test_no_redis_is_reached_from_outside(services: dict[str, Any]) -> None:
    networks = yaml.safe_load(COMPOSE.read_text())["networks"]
    for role in ("redis-cache", "redis-events"):
        assert "ports" not in services[role]
        assert [networks[name]["internal"] for name in services[role]["networks"]] == [True]


def test_a_plain_up_needs_two_public_images(default_services: dict[str, Any]) -> None:
    assert set(default_services) == {"redis-cache", "redis-events", "bundles", "recall", "events"}
    ours = {service["image"] for service in default_services.values() if "build" in service}
    pulled = {service["image"] for service in default_services.values()} - ours
    for service in default_services.values():
        if "build" in service:
            built = instructions(ROOT / service["build"]["dockerfile"])
            pulled |= {rest.split()[0] for name, rest in built if name == "FROM"}
    assert pulled == DEFAULT_IMAGES


def test_every_service_is_bounded_and_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service.get("mem_limit"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_long_running_services_restart_and_say_whether_they_are_well(default_services: dict[str, Any]) -> None:
    for name in set(default_services) - {"bundles"}:
        assert default_services[name]["restart"] == "unless-stopped", name
        assert default_services[name]["healthcheck"]["test"][0] == "CMD", name


def test_what_compose_asks_is_what_the_image_asks(services: dict[str, Any]) -> None:
    check = next(rest for name, rest in final_stage(ROOT / "docker" / "Dockerfile") if name == "HEALTHCHECK")
    health = services["recall"]["healthcheck"]
    assert json.loads(check.split("CMD ", 1)[1]) == health["test"][1:]
    for option in ("interval", "timeout", "start_period", "retries"):
        assert f"--{option.replace('_', '-')}={health[option]}" in check


def test_the_service_waits_for_the_bundles_that_are_made_beside_it(services: dict[str, Any]) -> None:
    *_, output = services["bundles"]["command"]
    arms = VARIABLE.sub(r"\2", services["recall"]["environment"]["RECALL_ARM"]).split()
    assert arms == [f"{arm}={output}/bundles/{arm}" for arm in ("recgpt", "comirec")]
    assert VARIABLE.sub(r"\2", services["recall"]["volumes"][0]) == services["bundles"]["volumes"][0] + ":ro"
    wait_s = int(VARIABLE.sub(r"\2", services["recall"]["environment"]["RECALL_BUNDLE_WAIT_S"]))
    assert 0 < wait_s < int(services["recall"]["healthcheck"]["start_period"].removesuffix("s"))


def test_no_start_order_is_needed(services: dict[str, Any]) -> None:
    """Some engines ignore `condition`; the short form has none to ignore."""
    assert all(isinstance(service.get("depends_on", []), list) for service in services.values())


def test_the_service_is_published_on_this_machine_only_unless_asked(services: dict[str, Any]) -> None:
    assert VARIABLE.sub(r"\2", services["recall"]["ports"][0]) == "127.0.0.1:8080:8080"
    for name in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])


@pytest.mark.parametrize("file", sorted(ROOT.glob("docker-compose*.yml")), ids=lambda path: path.name)
def test_compose_sets_only_variables_that_exist(file: Path) -> None:
    assert set(re.findall(r"\bRECALL_\w+", file.read_text())) - known_variables() == set()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_images_set_only_variables_that_exist(file: Path) -> None:
    set_there = {
        key for name, rest in instructions(file) if name == "ENV" for key in re.findall(r"(RECALL_\w+)=", rest)
    }
    assert set_there - known_variables() == set()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_a_fixed_user_that_is_not_root(file: Path) -> None:
    [user] = [rest for name, rest in final_stage(file) if name == "USER"]
    uid, gid = map(int, user.split(":"))
    assert min(uid, gid) >= 10_000


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_service_images_start_the_service_and_ask_after_its_health(name: str) -> None:
    stage = dict(final_stage(ROOT / "docker" / name))
    assert json.loads(stage["ENTRYPOINT"]) == ["recall"]
    assert json.loads(stage["CMD"]) == ["serve"]
    assert "HEALTHCHECK" in stage
    assert "RECALL_HOST=0.0.0.0" in stage["ENV"]


def test_the_gpu_image_differs_only_where_it_must() -> None:
    cpu, gpu = (
        [line for line in instructions(ROOT / "docker" / name) if line[0] in {"COPY", "USER", "HEALTHCHECK", "WORKDIR"}]
        for name in ("Dockerfile", "Dockerfile.gpu")
    )
    assert cpu == gpu


def test_the_gpu_file_overrides_services_that_exist(services: dict[str, Any]) -> None:
    override = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert set(override) <= set(services)
    [device] = override["recall"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_what_images_copy_passes_the_ignore_file() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word
        for file in DOCKERFILES
        for name, rest in instructions(file)
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    }
    assert (lines[1], copied) == ("*", let_through)
    assert all((ROOT / path).exists() for path in copied)


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    paths = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_prometheus_asks_the_published_route(services: dict[str, Any]) -> None:
    [job] = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["recall:8080"]}]
    assert "default" in services["recall"]["networks"]


@pytest.fixture
def metric_names() -> set[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    return {metric.name + suffix for metric in metric_families() for suffix in suffixes[metric.type]}


def test_the_dashboard_asks_for_metrics_that_exist(metric_names: set[str]) -> None:
    board = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "recall.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"recall_\w+", target["expr"])
    }
    assert asked - metric_names == set()
    assert {name.rsplit("_", 1)[0] for name in metric_names if name.endswith("_total")} <= {
        name.rsplit("_", 1)[0] for name in asked
    }


def test_the_dashboard_uses_the_datasource_that_is_provisioned() -> None:
    folder = ROOT / "docker" / "grafana"
    [source] = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    board = json.loads((folder / "dashboards/recall.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}


def test_the_page_names_every_variable_with_its_default() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    for name, default in set(VARIABLE.findall(COMPOSE.read_text())):
        assert re.search(rf"\| `{name}` \| `{re.escape(default)}` \|", page), f"{name} = {default}"


@pytest.fixture(params=[200, 503])
def health_server(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """(port, status) of a server that answers every GET with that status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param if self.path == "/health" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], request.param
        server.shutdown()
        thread.join()


def check_health(port: int) -> int:
    script = ROOT / "docker" / "healthcheck.py"
    environment = {"RECALL_PORT": str(port)}
    return subprocess.run([sys.executable, script], check=False, env=environment, capture_output=True).returncode


def test_the_health_check_fails_when_the_service_does(health_server: tuple[int, int]) -> None:
    port, status = health_server
    assert check_health(port) == (0 if status == 200 else 1)


def test_the_health_check_fails_when_nothing_answers() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as unused:
        port = unused.server_address[1]
    assert check_health(port) == 1


PORT_9000 = ["recall", "serve", "--port", "9000"]


@pytest.mark.parametrize(
    ("command", "environment", "address"),
    [
        ([], {}, ("127.0.0.1", 8080)),
        (["recall", "serve", ""], {"RECALL_HOST": "0.0.0.0", "RECALL_PORT": "9"}, ("127.0.0.1", 9)),
        (PORT_9000, {"RECALL_PORT": "9"}, ("127.0.0.1", 9000)),
        (["/sbin/docker-init", "--", *PORT_9000, "--host=::"], {}, ("::1", 9000)),
        (["recall", "serve", "--port=9000", "--host", "10.0.0.5"], {}, ("10.0.0.5", 9000)),
    ],
)
def test_the_health_check_asks_where_the_service_listens(
    command: list[str], environment: dict[str, str], address: tuple[str, int]
) -> None:
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "docker" / "healthcheck.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.address(command, environment) == address
