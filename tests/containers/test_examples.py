"""examples/: each is run as its README says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.containers.conftest import StartCompose
from tests.containers.engine import ROOT, base_images, docker, run

pytestmark = pytest.mark.containers
EXAMPLES = ROOT / "examples"
GO_STANDIN = "idtoken-sidecar-standin/go:local"


def _story(compose: StartCompose, name: str, service: str, **environ: str) -> list[str]:
    """Run an example to its end; return what `service` printed. Fails unless it ended with 0."""
    project = compose(name, "docker-compose.yml", directory=EXAMPLES / name, environ=environ)
    told = project(
        *("up", "--build", "--abort-on-container-exit", "--exit-code-from", service),
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-4000:]
    return project.logs(service).splitlines()


def test_grpc(compose: StartCompose) -> None:
    assert _story(compose, "grpc", "app") == [
        "Hello over gRPC!",
        "the service knows the caller as sender@local-project.iam.gserviceaccount.com",
        "streamed back: one",
        "streamed back: two",
        "streamed back: three",
    ]


def test_goproxy_beside_a_ci_job(compose: StartCompose, go_image: dict[str, str]) -> None:
    said = _story(compose, "goproxy-ci", "job", **go_image)
    assert said[-1] == "Hello from a private module!"


@pytest.fixture(scope="module")
def go_image(engine: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return GO_IMAGE: nothing where images can be pulled, else this machine's own Go."""
    if "PYTHON_IMAGE" not in base_images():
        return {}
    go = shutil.which("go")
    if go is None:
        pytest.skip("no image can be pulled here, and there is no go to make one of")
    root = Path(run(go, "env", "GOROOT").stdout.strip()).resolve()
    context = tmp_path_factory.mktemp("go")
    parts = [context / "go" / each for each in ("bin", "pkg/include", "pkg/tool", "src")]
    for part in parts:
        source = root / part.relative_to(context / "go")
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("*_test.go", "testdata"))
    shutil.copy(root / "VERSION", context / "go" / "VERSION")
    (context / "Dockerfile").write_text(
        f"FROM {base_images()['PYTHON_IMAGE']}\nCOPY go /usr/local/go\n"
        "ENV PATH=/usr/local/go/bin:$PATH\n"
    )
    docker("build", "--tag", GO_STANDIN, str(context), timeout=120)
    return {"GO_IMAGE": GO_STANDIN}
