"""A deploy whose snapshot exists uses it: init does not run again, and nothing else is different."""

import json

import pytest
from harness import package
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client, wait_for

#: What init drew tells one init from another; what the handler draws, one instance from another.
SOURCE = """
import os, random, uuid
INIT = uuid.uuid4().hex
def handler(event, context):
    return {
        "code": "CODE",
        "init": INIT,
        "secret": os.environ.get("SECRET"),
        "drawn": [os.urandom(16).hex(), uuid.uuid4().hex, random.getrandbits(128)],
    }
"""
PYTHON = {"Runtime": "python3.11", "Handler": "app.handler"}


def code(tag):
    return package.python(SOURCE.replace("CODE", tag))


def reuses(controller):
    return controller.metrics()["hearth_snapshot_reuses_total"]


def update(client, name, tag):
    client.update_function_code(FunctionName=name, ZipFile=code(tag))
    wait_for(client, "function_updated_v2", name)


def configure(client, name, **settings):
    client.update_function_configuration(FunctionName=name, **settings)
    wait_for(client, "function_updated_v2", name)


def told(controller, name):
    """What only Hearth says of a function."""
    answer = controller.get(f"/2015-03-31/functions/{name}/configuration")
    return json.loads(answer.data).get("Hearth")


def snapshots(controller, name):
    return [p.name for p in (controller.data / "snapshots" / "function").glob(f"{name}-*")]


@pytest.fixture
def cold(client):
    """What a new instance says, with all that instances have drawn so far told apart."""
    drawn = []

    def ask(name, **options):
        answer = invoke(client, name, {}, **options)
        assert answer.start == "cold"
        said = answer.ok()
        drawn.extend(said.pop("drawn"))
        assert len(set(drawn)) == len(drawn), "no two instances draw the same"
        return said

    return ask


def test_an_unchanged_deploy_and_a_rollback_do_not_run_init_again(controller, client, cold):
    create(client, "steady", code("one"), **PYTHON)
    first = cold("steady")
    before = reuses(controller)
    # The same code, and what the guest does not see.
    update(client, "steady", "one")
    assert cold("steady") == first
    configure(client, "steady", Timeout=17, Description="changed")
    assert cold("steady") == first
    assert reuses(controller) == before + 2
    assert told(controller, "steady") == {"SnapshotReused": True}
    assert len(snapshots(controller, "steady")) == 1
    update(client, "steady", "two")
    second = cold("steady")
    assert (second["code"], second["init"] != first["init"]) == ("two", True)
    assert reuses(controller) == before + 2
    assert told(controller, "steady") is None
    for tag, said in (("one", first), ("two", second)):
        update(client, "steady", tag)
        assert cold("steady") == said
    assert reuses(controller) == before + 4
    inits = [r for r in controller.logs("steady") if r["message"].startswith("INIT_REPORT")]
    assert len(inits) == 2
    # The version's number is an environment variable, so this is another init.
    client.publish_version(FunctionName="steady")
    wait_for(client, "published_version_active", "steady", Qualifier="1")
    assert cold("steady", Qualifier="1")["init"] not in (first["init"], second["init"])
    assert reuses(controller) == before + 4


def test_another_environment_is_another_init_and_no_kept_snapshot_has_the_old_one(
    controller, client, cold
):
    def variable(value):
        configure(client, "rotated", Environment={"Variables": {"SECRET": value}})
        return cold("rotated")

    create(
        client, "rotated", code("one"), Environment={"Variables": {"SECRET": "leaked"}}, **PYTHON
    )
    said = [cold("rotated")]
    update(client, "rotated", "two")
    said.append(cold("rotated"))
    until("the replaced code is kept", lambda: len(snapshots(controller, "rotated")) == 2)
    before = reuses(controller)
    said += [variable("new"), variable("leaked")]
    assert [s["secret"] for s in said] == ["leaked", "leaked", "new", "leaked"]
    assert len({s["init"] for s in said}) == 4
    assert reuses(controller) == before
    until("no other is kept", lambda: len(snapshots(controller, "rotated")) == 1)


def test_a_deleted_function_leaves_no_snapshot_to_another_of_its_name(controller, client, cold):
    create(client, "reborn", code("one"), **PYTHON)
    first = cold("reborn")
    update(client, "reborn", "two")
    before = reuses(controller)
    client.delete_function(FunctionName="reborn")
    until("its files are gone", lambda: snapshots(controller, "reborn") == [])
    create(client, "reborn", code("one"), **PYTHON)
    assert cold("reborn")["init"] != first["init"]
    assert reuses(controller) == before


def test_a_reused_snapshot_serves_and_is_reused_after_a_restart(own_controller, guest_package):
    controller = own_controller()
    client = lambda_client(controller.url)
    client.update_function_code(FunctionName="guest", ZipFile=guest_package)
    wait_for(client, "function_updated_v2", "guest")
    assert reuses(controller) == 1
    assert invoke(client, "guest", {"op": "who"}).ok()["code"] == "guest"
    controller.stop()
    controller.start()
    client = lambda_client(controller.url)
    assert invoke(client, "guest", {"op": "who"}).ok()["code"] == "guest"
    assert told(controller, "guest") == {"SnapshotReused": True}
    client.update_function_code(FunctionName="guest", ZipFile=guest_package)
    wait_for(client, "function_updated_v2", "guest")
    assert invoke(client, "guest", {"op": "who"}).ok()["code"] == "guest"
    assert reuses(controller) == 1
    assert controller.metrics()["hearth_snapshot_rebuilds_total"] == 0


def test_without_space_for_them_no_snapshots_of_replaced_code_are_kept(
    own_controller, guest_package
):
    controller = own_controller("--kept-snapshots-mib", "0")
    client = lambda_client(controller.url)
    other = package.archive({"bootstrap": package.compiled(guest_package), "tag": b"other"})
    for archive, tag in ((other, "other"), (guest_package, "guest")):
        client.update_function_code(FunctionName="guest", ZipFile=archive)
        wait_for(client, "function_updated_v2", "guest")
        assert invoke(client, "guest", {"op": "who"}).ok()["code"] == tag
        until("one snapshot is left", lambda: len(snapshots(controller, "guest")) == 1)
    assert reuses(controller) == 0
    assert controller.metrics()["hearth_kept_snapshot_bytes"] == 0
