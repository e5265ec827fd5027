"""The files in deploy/ are valid for the programs that will read them."""

from harness import layout
from harness.command import run


def test_unit_scrape_configuration_and_live_metrics_pass_their_own_checkers(controller, client):
    done = run(layout.REPOSITORY / "deploy" / "check", controller.url)
    assert done.status == 0, done.out + done.err
    assert done.out.count("ok    ") == 4, done.out
