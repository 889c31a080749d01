"""The playground's files: small, strict, open to everybody where they are served, and nowhere else."""

import re
from pathlib import Path

import pytest

import service.playground
from service.settings import Settings
from tests.service.conftest import Serve

STATIC = Path(service.playground.__file__).parent / "static"


def test_the_page_is_served_in_development_and_not_in_production_unless_asked_for(serve: Serve) -> None:
    assert serve().get("/playground/").status_code == 404
    assert serve(environment="development").get("/playground/").status_code == 200
    assert serve(playground=True).get("/playground/").status_code == 200
    assert serve(environment="development", playground=False).get("/playground/").status_code == 404


def test_every_file_comes_with_its_type_and_a_strict_policy(serve: Serve) -> None:
    client = serve(playground=True)
    for path in STATIC.iterdir():
        answer = client.get(f"/playground/{path.name}")
        assert answer.content == path.read_bytes()
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/playground/app.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert client.get("/playground/").content == (STATIC / "index.html").read_bytes()


@pytest.mark.parametrize("path", ["/", "/playground"])
def test_the_root_and_the_folder_lead_to_the_page(serve: Serve, path: str) -> None:
    client = serve(playground=True, api_keys=("a-key-of-some-length",))
    answer = client.get(path, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "playground/")
    assert client.get(path).content == (STATIC / "index.html").read_bytes()


def test_without_the_page_the_root_leads_nowhere(serve: Serve) -> None:
    assert serve().get("/").status_code == 404


def test_a_file_that_did_not_change_is_not_sent_again(serve: Serve) -> None:
    client = serve(playground=True)
    tag = client.get("/playground/app.js").headers["etag"]
    assert client.get("/playground/app.js", headers={"if-none-match": tag}).status_code == 304


@pytest.mark.parametrize(
    "name", ["page.py", "../page.py", "%2e%2e/page.py", "..%2fpage.py", "missing.js", "static/app.js"]
)
def test_nothing_but_the_files_is_served(serve: Serve, name: str) -> None:
    assert serve(playground=True).get(f"/playground/{name}").status_code == 404


def test_the_files_need_no_key_and_what_they_ask_does(serve: Serve) -> None:
    client = serve(playground=True, api_keys=("a-key-of-some-length",))
    assert client.get("/playground/").status_code == 200
    for path in ("/v1/info", "/evaluation_users", "/report", "/playgrounds"):
        assert client.get(path).status_code == 401
    assert client.post("/search", json={"text": "film"}).status_code == 401


def test_every_module_is_asked_for_at_once_and_not_one_after_another() -> None:
    page = (STATIC / "index.html").read_text()
    assert set(re.findall(r'rel="modulepreload" href="(.+?)"|type="module" src="(.+?)"', page)) == {
        ("", path.name) if path.name == "app.js" else (path.name, "") for path in STATIC.glob("*.js")
    }


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 150_000


def test_no_file_reads_text_as_markup_or_asks_another_host() -> None:
    for path in STATIC.iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text), path.name
        hosts = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)) - {"http://www.w3.org"}
        assert not hosts, path.name
    assert not re.search(r"<style|<script(?! type=\"module\" src)| style=| on\w+=", (STATIC / "index.html").read_text())


def test_every_import_of_a_module_is_a_file_of_the_folder() -> None:
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert (STATIC / name).exists(), (path.name, name)


def test_the_setting_wins_over_the_environment() -> None:
    assert not Settings(bundle=Path("b")).serves_playground
    assert Settings(bundle=Path("b"), environment="development").serves_playground
    assert not Settings(bundle=Path("b"), environment="development", playground=False).serves_playground
