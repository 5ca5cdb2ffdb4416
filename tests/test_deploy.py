"""The files for Kubernetes and the alert rules: against their schemas, against the code, and fired by promtool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generate import metric_families
from service.http.auth import NEEDED
from service.http.server import BODY_GRACE_SECONDS, GRACE_SECONDS
from service.settings import Settings

DOCKER = Path(__file__).parents[1] / "docker"
KUBERNETES = DOCKER / "kubernetes"
DOCUMENTS = [*yaml.safe_load_all((KUBERNETES / "recall.yaml").read_text())]
KINDS = {document["kind"]: document for document in DOCUMENTS}
PROMTOOL = shutil.which("promtool")
LABELS = {"app.kubernetes.io/name": "recall"}


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return KINDS["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [only] = pod["containers"]
    return only


def metric_names() -> set[str]:
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {metric.name + suffix for metric in metric_families() for suffix in suffixes[metric.type]}


@pytest.mark.parametrize("document", DOCUMENTS, ids=[*KINDS])
@pytest.mark.parametrize("version", ["1.29", "1.33"])
def test_every_object_fits_the_schema_of_kubernetes(document: dict[str, Any], version: str) -> None:
    reason = "needs kubernetes-validate (pip), whose schemas are 100 MB"
    validator = pytest.importorskip("kubernetes_validate", reason=reason)
    validator.validate(document, version, strict=True)


def test_all_that_an_operator_needs_is_there() -> None:
    assert [*KINDS] == ["Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"]


def test_all_objects_mean_the_same_pods() -> None:
    deployment = KINDS["Deployment"]["spec"]
    assert deployment["template"]["metadata"]["labels"] == deployment["selector"]["matchLabels"] == LABELS
    assert KINDS["Service"]["spec"]["selector"] == LABELS
    assert KINDS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == LABELS
    assert KINDS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == LABELS
    assert KINDS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == KINDS["Deployment"]["metadata"]["name"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_open_routes_at_the_port(container: dict[str, Any], probe: str) -> None:
    asked = container[probe]["httpGet"]
    assert NEEDED[asked["path"]] == ()
    assert asked["port"] in {port["name"] for port in container["ports"]}
    assert {port["containerPort"] for port in container["ports"]} == {Settings().port}


def test_a_pod_that_goes_has_time_for_what_it_was_asked(pod: dict[str, Any], container: dict[str, Any]) -> None:
    *_, pause_s = container["lifecycle"]["preStop"]["exec"]["command"]
    readiness = container["readinessProbe"]
    # others know by then that it is going, whether they look at the endpoints or at the probe
    assert int(pause_s) > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > int(pause_s) + GRACE_SECONDS + BODY_GRACE_SECONDS + 5


def test_a_thread_that_hangs_is_replaced_before_the_pod_is(container: dict[str, Any]) -> None:
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > 20 * Settings().engine_stall_ms / 1e3


def test_variables_are_settings(container: dict[str, Any]) -> None:
    known = {f"RECALL_{name.upper()}" for name in Settings.model_fields} | {"RECALL_ARM", "OMP_NUM_THREADS"}
    assert {variable["name"] for variable in container["env"]} <= known
    folders = {mount["mountPath"] for mount in container["volumeMounts"]}
    arms = next(variable["value"] for variable in container["env"] if variable["name"] == "RECALL_ARM")
    assert all(arm.partition("=")[2].startswith("/bundles/") for arm in arms.split())
    assert {"/bundles", "/var/lib/recall", "/tmp", "/etc/recall/keys"} == folders


def test_the_pod_runs_as_the_user_of_the_image_and_may_nothing_else(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (*map(int, user.groups()),)
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]


def test_the_autoscaler_follows_a_metric_that_the_adapter_makes_known() -> None:
    [metric] = KINDS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    [rule] = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name)
    assert name in metric_names()
    target_s = int(metric["pods"]["target"]["averageValue"].removesuffix("m")) / 1e3
    # replicas come before requests are refused
    assert target_s < Settings().target_wait_ms / 1e3


def test_alerts_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"\brecall_\w+", rule["expr"])}
    assert asked - metric_names() == set()
    assert yaml.safe_load((DOCKER / "prometheus.yml").read_text())["rule_files"] == ["alerts.yml"]
    compose = (DOCKER.parent / "docker-compose.yml").read_text()
    assert "./docker/alerts.yml:/etc/prometheus/alerts.yml:ro" in compose


def test_each_alert_is_tested_well_and_ill() -> None:
    rules = {rule["alert"] for rule in yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"][0]["rules"]}
    well, ill = yaml.safe_load((DOCKER / "alerts_test.yml").read_text())["tests"]
    assert {test["alertname"] for test in well["alert_rule_test"] if "exp_alerts" not in test} == rules
    assert {test["alertname"] for test in ill["alert_rule_test"] if test["exp_alerts"]} == rules


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian's package prometheus)")
@pytest.mark.parametrize("words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_takes_the_rules_and_fires_them(words: tuple[str, ...]) -> None:
    done = subprocess.run([PROMTOOL, *words], cwd=DOCKER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian's package prometheus)")
def test_a_rule_that_never_fires_is_found(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "alerts_test.yml", tmp_path)
    rules = (DOCKER / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(rules.replace("> 0.025", "> 25"))
    words = [PROMTOOL, "test", "rules", "alerts_test.yml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "RecallWaiting" in done.stderr + done.stdout) == (1, True)
